//! One line of a log.

use std::time::SystemTime;

use serde_json::{Map, Value};

#[derive(Clone, Debug)]
pub struct Record {
    pub service: String,
    pub time: Option<SystemTime>,
    pub level: String,
    pub raw: String,
    fields: Map<String, Value>,
}

impl Record {
    /// A line that is no JSON has the time of the one before it.
    pub fn parse(service: &str, line: &str, before: Option<SystemTime>) -> Record {
        let mut record = Record {
            service: service.to_owned(),
            time: before,
            level: "INFO".to_owned(),
            raw: line.to_owned(),
            fields: Map::new(),
        };
        let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
            record.plain(line);
            return record;
        };
        if let Some(Value::String(time)) = fields.remove("timestamp") {
            record.time = humantime::parse_rfc3339(&time).ok().or(before);
        }
        if let Some(Value::String(level)) = fields.remove("level") {
            record.level = level;
        }
        record.fields = fields;
        record
    }

    /// As lines for people are written: time, level, the rest.
    fn plain(&mut self, line: &str) {
        let mut rest = line;
        if let Some((first, after)) = line.split_once(' ')
            && let Ok(time) = humantime::parse_rfc3339(first)
        {
            self.time = Some(time);
            rest = after.trim_start();
        }
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if matches!(word, "ERROR" | "WARN" | "INFO" | "DEBUG" | "TRACE") {
            self.level = word.to_owned();
            rest = after;
        }
        self.fields.insert("message".to_owned(), Value::String(rest.to_owned()));
    }

    /// 0 is the worst.
    pub fn rank(&self) -> u8 {
        match self.level.as_str() {
            "ERROR" => 0,
            "WARN" => 1,
            "INFO" => 2,
            "DEBUG" => 3,
            _ => 4,
        }
    }

    /// The message, and what belongs to it.
    pub fn text(&self) -> String {
        let mut text = self.fields.get("message").map(plain).unwrap_or_default();
        for (key, value) in &self.fields {
            match (key.as_str(), value) {
                ("message" | "target", _) => {}
                ("span", Value::Object(span)) => {
                    for (key, value) in span.iter().filter(|(key, _)| *key != "name") {
                        text.push_str(&format!(" {key}={}", plain(value)));
                    }
                }
                (key, value) => text.push_str(&format!(" {key}={}", plain(value))),
            }
        }
        text
    }

    /// As it was written, with whose it is.
    pub fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let time = self.time.map(|time| humantime::format_rfc3339_micros(time).to_string());
        object.insert("timestamp".to_owned(), time.map_or(Value::Null, Value::String));
        object.insert("level".to_owned(), Value::String(self.level.clone()));
        object.insert("service".to_owned(), Value::String(self.service.clone()));
        for (key, value) in &self.fields {
            object.entry(key.clone()).or_insert_with(|| value.clone());
        }
        object
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_daemon_reads_like_one_for_people() {
        let line = r#"{"timestamp":"2026-11-21T15:00:00.123456Z","level":"WARN","message":"slow","took":12,"target":"t","span":{"name":"call","id":"a1"}}"#;
        let record = Record::parse("llm", line, None);
        assert_eq!(record.text(), "slow id=a1 took=12");
        assert_eq!(record.rank(), 1);
        assert_eq!(record.object()["service"], "llm");
        assert_eq!(record.object()["timestamp"], "2026-11-21T15:00:00.123456Z");
    }

    #[test]
    fn lines_for_people_are_understood_and_others_belong_to_the_one_before() {
        let first = Record::parse("x", "2026-11-21T15:00:00.5Z  INFO nexus: ready a=1", None);
        assert_eq!(
            (first.level.as_str(), first.text().as_str()),
            ("INFO", "nexus: ready a=1")
        );
        let next = Record::parse("x", "   at line 7", first.time);
        assert_eq!(next.time, first.time);
        assert!(first.time.is_some());
    }
}
