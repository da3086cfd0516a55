//! Converts the parts of messages between the wire and the domain.

use nexus_proto::llm::v1::{self as wire, block::Kind};

use crate::domain::block::{Block, Image, Opaque, Part, ToolCall, ToolResult};

/// A caller's blocks, or what is wrong with them.
pub fn received(blocks: Vec<wire::Block>) -> Result<Vec<Block>, String> {
    let block = |(place, block): (usize, wire::Block)| {
        let invalid = |what: &str| format!("blocks[{place}]: {what}");
        Ok(
            match block
                .kind
                .ok_or_else(|| invalid("is empty, or of a kind that is not known"))?
            {
                Kind::Text(text) => Block::Text(text),
                Kind::Image(image) => Block::Image(picture(image)),
                Kind::ToolCall(call) => Block::Call(ToolCall {
                    id: call.id,
                    name: call.name,
                    arguments: call.arguments,
                }),
                Kind::ToolResult(result) => Block::Result(ToolResult {
                    call_id: result.tool_call_id,
                    name: result.name,
                    content: parts(result.content)
                        .ok_or_else(|| invalid("a tool result holds text and images only"))?,
                    is_error: result.is_error,
                }),
                Kind::Opaque(opaque) => Block::Opaque(Opaque {
                    provider: opaque.provider,
                    model: opaque.model,
                    data: opaque.data.into(),
                }),
            },
        )
    };
    blocks.into_iter().enumerate().map(block).collect()
}

fn parts(blocks: Vec<wire::Block>) -> Option<Vec<Part>> {
    let part = |block: wire::Block| match block.kind? {
        Kind::Text(text) => Some(Part::Text(text)),
        Kind::Image(image) => Some(Part::Image(picture(image))),
        Kind::ToolCall(_) | Kind::ToolResult(_) | Kind::Opaque(_) => None,
    };
    blocks.into_iter().map(part).collect()
}

fn picture(image: wire::Image) -> Image {
    Image {
        media_type: image.media_type,
        data: image.data.into(),
    }
}

/// A block of an answer.
pub fn sent(block: Block) -> wire::Block {
    let kind = match block {
        Block::Text(text) => Kind::Text(text),
        Block::Image(image) => Kind::Image(shown(image)),
        Block::Call(one) => Kind::ToolCall(call(one)),
        Block::Result(result) => Kind::ToolResult(wire::ToolResult {
            tool_call_id: result.call_id,
            name: result.name,
            content: result.content.into_iter().map(part).collect(),
            is_error: result.is_error,
        }),
        Block::Opaque(opaque) => Kind::Opaque(wire::Opaque {
            provider: opaque.provider,
            model: opaque.model,
            data: opaque.data.into(),
        }),
    };
    wire::Block { kind: Some(kind) }
}

fn part(part: Part) -> wire::Block {
    let kind = match part {
        Part::Text(text) => Kind::Text(text),
        Part::Image(image) => Kind::Image(shown(image)),
    };
    wire::Block { kind: Some(kind) }
}

fn shown(image: Image) -> wire::Image {
    wire::Image {
        media_type: image.media_type,
        data: image.data.into(),
    }
}

pub fn call(call: ToolCall) -> wire::ToolCall {
    wire::ToolCall {
        malformed: call.is_malformed(),
        id: call.id,
        name: call.name,
        arguments: call.arguments,
    }
}
