//! `GetUsage`, and budgets as answers tell of them.

use nexus_daemon::{Caller, Role};
use nexus_proto::llm::v1 as wire;
use tonic::{Code, Status};

use crate::{
    domain::{
        budget::Use,
        error::Error,
        usage::{self, Cell, GroupBy, Sum},
    },
    engine::{Engine, today},
};

/// Without a first day, so many up to the last.
const DAYS: u64 = 30;

/// Sessions and agents of everybody are in it, so it is for administrators.
pub async fn get(
    engine: &Engine,
    caller: &Caller,
    request: wire::GetUsageRequest,
) -> Result<wire::GetUsageResponse, Status> {
    allow(caller)?;
    let day = |name: &str, text: &str| match text {
        "" => Ok(None),
        text => match usage::day(text) {
            Some(day) => Ok(Some(day)),
            None => Err(Error::Invalid(format!("{name} {text:?} is no day such as 2026-11-30"))),
        },
    };
    let to = day("to_day", &request.to_day)?.unwrap_or_else(today);
    let from = day("from_day", &request.from_day)?.unwrap_or_else(|| to.saturating_sub(DAYS - 1));
    let mut by = GroupBy::default();
    for name in &request.group_by {
        by = by
            .with(name)
            .ok_or_else(|| Error::Invalid(format!("group_by: {name:?} is none of day, agent, model, session")))?;
    }
    let of = Cell {
        day: 0,
        agent: request.agent_id,
        model: request.model,
        session: request.session_id,
    };
    let rows = engine.books().usage(from, to, by, &of).await?;
    Ok(wire::GetUsageResponse {
        rows: rows.into_iter().map(|(cell, sum)| row(by, cell, sum)).collect(),
    })
}

fn allow(caller: &Caller) -> Result<(), Status> {
    match caller.role {
        Role::Admin => Ok(()),
        Role::Agent | Role::User => {
            let text = "usage of all sessions is for administrators";
            Err(nexus_daemon::status(Code::PermissionDenied, text, "NOT_ADMIN"))
        }
    }
}

fn row(by: GroupBy, cell: Cell, sum: Sum) -> wire::UsageRow {
    wire::UsageRow {
        day: if by.day { usage::date(cell.day) } else { String::new() },
        agent_id: cell.agent,
        model: cell.model,
        session_id: cell.session,
        requests: count(sum.requests),
        input_tokens: count(sum.input_tokens),
        output_tokens: count(sum.output_tokens),
        cost_micros: count(sum.cost),
        unpriced_requests: count(sum.unpriced),
    }
}

pub fn budget(one: Use) -> wire::BudgetUse {
    wire::BudgetUse {
        nearly_used_up: one.is_nearly_up(),
        kind: one.scope.key.kind.name().into(),
        id: one.scope.key.id,
        used_tokens: count(one.spent.tokens),
        max_tokens: count(one.scope.max_tokens.unwrap_or(0)),
        used_cost_micros: count(one.spent.cost),
        max_cost_micros: count(one.scope.max_cost.unwrap_or(0)),
    }
}

pub fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another user of this host asks what everybody talks about, and with whom.
    #[test]
    fn only_administrators_see_everybodys_usage() {
        let code = |role| allow(&Caller::of_uid(1_000, role)).map_err(|status| status.code());
        assert_eq!(code(Role::Admin), Ok(()));
        for role in [Role::User, Role::Agent] {
            assert_eq!(code(role), Err(Code::PermissionDenied));
        }
    }
}
