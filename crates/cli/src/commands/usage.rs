//! `nexus usage`: tokens and money that models have cost, as the model daemon counts them.

use clap::{Args, ValueEnum};
use nexus_proto::llm::v1::{GetUsageRequest, UsageRow};
use serde_json::json;

use super::sessions;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
};

const EXAMPLES: &str = "\
Requests whose price is not known are counted apart and cost nothing here; prices come with Nexus and can be set
(docs/MODELS.md).

Examples:
  nexus usage                              the last thirty days, by day
  nexus usage --by model
  nexus usage --by session --from 2026-11-30
  nexus usage --by day,agent --json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    Day,
    Agent,
    Model,
    Session,
}

impl By {
    fn word(self) -> &'static str {
        match self {
            By::Day => "day",
            By::Agent => "agent",
            By::Model => "model",
            By::Session => "session",
        }
    }

    fn of(self, row: &UsageRow) -> String {
        match self {
            By::Day => row.day.clone(),
            By::Agent => row.agent_id.clone(),
            By::Model => row.model.clone(),
            By::Session => row.session_id.clone(),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct UsageArgs {
    /// One row for each of these; several are separated by commas
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "day")]
    pub by: Vec<By>,
    /// The first day, such as 2026-11-30, in UTC; thirty days before the last by default
    #[arg(long, value_name = "DAY")]
    pub from: Option<String>,
    /// The last day; today by default
    #[arg(long, value_name = "DAY")]
    pub to: Option<String>,
    /// Count only this agent, by its id
    #[arg(long, value_name = "ID")]
    pub agent: Option<String>,
    /// Count only this model, as provider/model
    #[arg(long)]
    pub model: Option<String>,
    /// Count only this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
}

pub async fn run(context: &Context, args: UsageArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let session_id = match &args.session {
        Some(given) => sessions::find(&connection, given).await?,
        None => String::new(),
    };
    let request = GetUsageRequest {
        from_day: args.from.unwrap_or_default(),
        to_day: args.to.unwrap_or_default(),
        agent_id: args.agent.unwrap_or_default(),
        model: args.model.unwrap_or_default(),
        session_id,
        group_by: args.by.iter().map(|by| by.word().to_owned()).collect(),
    };
    let rows = connection.llm().get_usage(request).await?.into_inner().rows;
    if output.json {
        let shown = |row: &UsageRow| {
            json!({
                "day": row.day, "agent": row.agent_id, "model": row.model, "session": row.session_id,
                "requests": row.requests, "input_tokens": row.input_tokens, "output_tokens": row.output_tokens,
                "cost_micros": row.cost_micros, "unpriced_requests": row.unpriced_requests,
            })
        };
        output.value(&rows.iter().map(shown).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if rows.is_empty() {
        output.note("no model was asked in that time");
        return Ok(Exit::Ok);
    }
    let named = |row: &UsageRow| args.by.iter().map(|by| by.of(row)).collect::<Vec<_>>().join("  ");
    let line = |name: String, row: &UsageRow| {
        let unpriced = match row.unpriced_requests {
            0 => String::new(),
            requests => format!("{requests} without a price"),
        };
        [
            name,
            row.requests.to_string(),
            row.input_tokens.to_string(),
            row.output_tokens.to_string(),
            dollars(row.cost_micros),
            unpriced,
        ]
    };
    let mut lines: Vec<_> = rows.iter().map(|row| line(named(row), row)).collect();
    if rows.len() > 1 {
        lines.push(line("all".to_owned(), &sum(&rows)));
    }
    let heads: Vec<String> = args.by.iter().map(|by| by.word().to_uppercase()).collect();
    let head = heads.join("  ");
    output.line(table(output, [&head, "REQUESTS", "IN", "OUT", "COST", ""], lines))?;
    Ok(Exit::Ok)
}

fn sum(rows: &[UsageRow]) -> UsageRow {
    rows.iter().fold(UsageRow::default(), |mut sum, row| {
        sum.requests = sum.requests.saturating_add(row.requests);
        sum.input_tokens = sum.input_tokens.saturating_add(row.input_tokens);
        sum.output_tokens = sum.output_tokens.saturating_add(row.output_tokens);
        sum.cost_micros = sum.cost_micros.saturating_add(row.cost_micros);
        sum.unpriced_requests = sum.unpriced_requests.saturating_add(row.unpriced_requests);
        sum
    })
}

/// Millionths as dollars; what is less than a cent to its last digit.
fn dollars(micros: i64) -> String {
    match micros.abs() {
        0 => "$0".to_owned(),
        1..10_000 => format!("${}.{:06}", micros / 1_000_000, micros.abs() % 1_000_000),
        _ => format!("${}.{:02}", micros / 1_000_000, micros.abs() % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_told_to_the_cent_or_to_its_last_digit() {
        let told = [0, 42, 9_999, 10_000, 1_234_567, 250_000_000].map(dollars);
        assert_eq!(told, ["$0", "$0.000042", "$0.009999", "$0.01", "$1.23", "$250.00"]);
    }
}
