//! A position in a trace, and its text form, the header `traceparent` of W3C Trace Context.

use std::fmt;
use std::str::FromStr;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};

/// The parent of a span. Stored or sent with messages where no call connects the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: TraceId,
    span: SpanId,
    flags: TraceFlags,
}

/// A text that is not a `traceparent`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    pub(super) fn of(context: &Context) -> TraceParent {
        let span = context.span();
        let span = span.span_context();
        TraceParent {
            trace: span.trace_id(),
            span: span.span_id(),
            flags: span.trace_flags(),
        }
    }

    pub(super) fn context(&self) -> Context {
        Context::new().with_remote_span_context(SpanContext::new(
            self.trace,
            self.span,
            self.flags,
            true,
            TraceState::default(),
        ))
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// A later version may have more at the end; what is not understood is no parent.
    fn from_str(text: &str) -> Result<TraceParent, InvalidTraceParent> {
        let hex = |part: Option<&str>, digits: usize| {
            let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            part.filter(|part| part.len() == digits && part.bytes().all(lower))
                .map(str::to_owned)
                .ok_or(InvalidTraceParent)
        };
        let mut parts = text.trim().split('-');
        let version = hex(parts.next(), 2)?;
        let (trace, span, flags) = (hex(parts.next(), 32)?, hex(parts.next(), 16)?, hex(parts.next(), 2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(InvalidTraceParent);
        }
        let parent = TraceParent {
            trace: TraceId::from_hex(&trace).map_err(|_| InvalidTraceParent)?,
            span: SpanId::from_hex(&span).map_err(|_| InvalidTraceParent)?,
            flags: TraceFlags::new(u8::from_str_radix(&flags, 16).map_err(|_| InvalidTraceParent)?)
                & TraceFlags::SAMPLED,
        };
        if parent.trace == TraceId::INVALID || parent.span == SpanId::INVALID {
            return Err(InvalidTraceParent);
        }
        Ok(parent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags.to_u8())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read_again() {
        let parent: TraceParent = GOOD.parse().unwrap();
        assert_eq!(parent.to_string(), GOOD);
        assert!(parent.context().span().span_context().is_remote());
        assert_eq!(TraceParent::of(&parent.context()), parent);
        let unsampled = GOOD.replace("-01", "-00");
        assert_eq!(unsampled.parse::<TraceParent>().unwrap().to_string(), unsampled);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("{}-more", GOOD.replacen("00", "cc", 1));
        assert_eq!(later.parse::<TraceParent>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn what_is_no_place_begins_no_trace() {
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let no_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let more = format!("{GOOD}-more");
        let (loud, invalid) = (GOOD.to_uppercase(), GOOD.replacen("00", "ff", 1));
        for wrong in ["", "00", "x", zero, no_span, &more, &loud, &invalid, &GOOD[..54]] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(InvalidTraceParent), "{wrong:?}");
        }
    }
}
