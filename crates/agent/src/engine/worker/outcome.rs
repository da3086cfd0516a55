//! What came of a call.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use nexus_proto::agent::v1::TaskResult;

/// The result of a task, or why it has none: a code and what the model is told.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<TaskResult, (String, String)>,
    /// The record of a process that is not needed any more once the result is told: session and number.
    pub delivered: Option<(String, u64)>,
}

/// Keys of the metadata of a result.
pub mod key {
    /// Why a call did not end by itself: `timeout`, `cancelled`.
    pub const CODE: &str = "code";
    /// The name by which the whole output can be read.
    pub const SPILL: &str = "spill";
    pub const OUTPUT_BYTES: &str = "output_bytes";
    pub const MEDIA_TYPE: &str = "media_type";
    pub const HASH_BEFORE: &str = "hash_before";
    pub const HASH_AFTER: &str = "hash_after";
    /// A process that goes on.
    pub const PROCESS_ID: &str = "process_id";
}

/// What a tool gives.
#[derive(Debug, Default)]
pub struct Told {
    pub text: String,
    pub exit_code: i32,
    /// An image, by its media type.
    pub image: Option<(&'static str, Vec<u8>)>,
    pub metadata: HashMap<String, String>,
    pub delivered: Option<(String, u64)>,
}

impl Told {
    pub fn text(text: impl Into<String>) -> Told {
        Told {
            text: text.into(),
            ..Told::default()
        }
    }

    pub fn with(mut self, key: &str, value: impl Into<String>) -> Told {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }
}

impl Outcome {
    pub fn failed(code: &str, message: &str) -> Outcome {
        Outcome {
            result: Err((code.to_owned(), message.to_owned())),
            delivered: None,
        }
    }

    pub fn of(told: Result<Told, nexus_tools::Error>, took: Duration) -> Outcome {
        match told {
            Ok(mut told) => {
                if let Some((media_type, _)) = &told.image {
                    told.metadata.insert(key::MEDIA_TYPE.into(), (*media_type).into());
                }
                Outcome {
                    delivered: told.delivered.take(),
                    result: Ok(TaskResult {
                        exit_code: told.exit_code,
                        output_text: told.text,
                        output_data: told.image.map(|(_, bytes)| bytes).unwrap_or_default().into(),
                        metadata: told.metadata,
                        completed_at: Some(SystemTime::now().into()),
                        execution_duration_ns: i64::try_from(took.as_nanos()).unwrap_or(i64::MAX),
                        ..TaskResult::default()
                    }),
                }
            }
            Err(error) => Outcome::failed(error.code.as_str(), &error.to_string()),
        }
    }
}
