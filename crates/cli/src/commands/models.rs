//! `nexus models`: the models that the model daemon offers, asked through the orchestrator.

use nexus_proto::llm::v1::ListModelsRequest;

use super::keys;
use crate::{
    args::{ModelsArgs, ModelsCommand},
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table, view},
};

pub async fn run(context: &Context, args: ModelsArgs, output: &Output) -> Result<Exit, Failure> {
    match args.command {
        Some(ModelsCommand::Key(command)) => keys::run(context, command, output),
        None | Some(ModelsCommand::List) => list(context, args.provider.unwrap_or_default(), output).await,
    }
}

async fn list(context: &Context, provider: String, output: &Output) -> Result<Exit, Failure> {
    let answer = context
        .connection()
        .llm()
        .list_models(ListModelsRequest { provider })
        .await?;
    let models: Vec<_> = answer.into_inner().models.iter().map(view::model).collect();
    if output.json {
        output.value(&models)?;
        return Ok(Exit::Ok);
    }
    let rows = models.into_iter().map(|model| {
        let can = [
            ("streaming", model.streaming),
            ("tools", model.tools),
            ("vision", model.vision),
            ("thinking", model.thinking),
        ];
        let can: Vec<&str> = can.iter().filter(|(_, can)| *can).map(|(name, _)| *name).collect();
        [model.id, model.provider, model.name, can.join(" ")]
    });
    output.line(table(output, ["ID", "PROVIDER", "NAME", "CAN"], rows))?;
    output.note("\nmore providers with: nexus models key set anthropic");
    Ok(Exit::Ok)
}
