//! One attempt with one provider: passes its pieces on, and counts its end.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt;
use nexus_daemon::spans::Span;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    Engine, RedialReason, Setup,
    books::Reservation,
    run::{Counted, Output, Whole},
};
use crate::{
    domain::{
        answer::{Answer, Finish, LONGEST, MOST_CALLS, Piece, Tokens},
        budget::Use,
        catalogue,
        failure::{Failure, Kind},
        request::Request,
    },
    provider::{Call, Pieces, Provider},
};

pub struct Ended {
    pub failure: Failure,
    /// A part of the answer was sent.
    pub begun: bool,
}

/// Asks once. Pieces go to `out` as they come; a slow reader slows the provider.
pub async fn once(
    engine: &Engine,
    setup: &Setup,
    provider: &dyn Provider,
    call: Call,
    reservation: Reservation,
    out: &mpsc::Sender<Output>,
    counted: &mut Counted<'_>,
) -> Result<Whole, Ended> {
    let model = format!(
        "{}/{}",
        provider.name(),
        call.model.strip_prefix("openrouter/").unwrap_or(&call.model)
    );
    let own_name = call.model.clone();
    let asking = Span::call("ask provider");
    asking.note("gen_ai.provider.name", provider.name().to_owned());
    asking.note("gen_ai.request.model", call.model.clone());
    let mut attempt = Attempt::begin(engine, setup, provider.name(), &call.request, reservation, counted);
    let mut pieces = provider.answer(call);
    let mut waiting: VecDeque<Output> = VecDeque::new();
    let mut redials = engine.0.redials.subscribe();
    while let Some(piece) = next(&mut pieces, &mut redials, provider.name()).await {
        match piece {
            Ok(piece) => {
                attempt.answer.add(&piece);
                if attempt.answer.is_too_long() {
                    let text = format!("its answer is longer than {LONGEST} bytes or {MOST_CALLS} tool calls");
                    let failure = Failure::new(Kind::Broken, text);
                    attempt.failure = Some(failure.clone());
                    return Err(Ended { failure, begun: true });
                }
                waiting.extend(output(piece, &mut attempt.answer));
            }
            Err(failure) => {
                let begun = attempt.answer.has_begun();
                asking.failed(format!("{:?}", failure.kind));
                attempt.failure = Some(failure.clone());
                return Err(Ended { failure, begun });
            }
        }
        while let Some(output) = waiting.pop_front() {
            // Without a reader this future is dropped with its stream.
            let _ = out.send(output).await;
        }
    }
    // A call that the limit cut off is not whole.
    if attempt.answer.finish() != Finish::Length {
        for call in 0..attempt.answer.tool_calls.len() {
            if let Some(last) = end_call(&mut attempt.answer, call) {
                let _ = out.send(last).await;
            }
        }
    }
    let tokens = attempt.tokens();
    attempt.took = Some(attempt.began.elapsed());
    asking.note("gen_ai.usage.input_tokens", number(tokens.input));
    asking.note("gen_ai.usage.output_tokens", number(tokens.output));
    // While the calls are there, as they decide it.
    let finish = attempt.answer.finish();
    let (budgets, cost) = attempt.settle();
    Ok(Whole {
        budgets,
        cost,
        blocks: attempt.answer.blocks(provider.name(), &own_name),
        content: std::mem::take(&mut attempt.answer.content),
        tool_calls: std::mem::take(&mut attempt.answer.tool_calls),
        finish,
        tokens,
        provider: provider.name().into(),
        model,
        completed: SystemTime::now(),
    })
}

fn number(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

/// The next piece. After a reason it has to come soon: a dead connection says nothing, for ever.
async fn next(
    pieces: &mut Pieces,
    redials: &mut watch::Receiver<RedialReason>,
    provider: &str,
) -> Option<Result<Piece, Failure>> {
    if provider == catalogue::OFFLINE {
        return pieces.next().await;
    }
    let reason = tokio::select! {
        biased;
        piece = pieces.next() => return piece,
        reason = redials.changed() => reason.map(|()| *redials.borrow_and_update()),
    };
    let Ok(reason) = reason else {
        return pieces.next().await;
    };
    timeout(reason.patience(), pieces.next()).await.unwrap_or_else(|_| {
        let text = match reason {
            RedialReason::Wake => "the connection did not outlive a sleep of this host",
            RedialReason::Network => "the connection did not outlive a change of the network",
        };
        Some(Err(Failure::new(Kind::Broken, text)))
    })
}

/// `answer` holds the piece already.
fn output(piece: Piece, answer: &mut Answer) -> Option<Output> {
    match piece {
        Piece::Text(text) => Some(Output::Text(text)),
        Piece::Tool { id, name, arguments } => Some(Output::Tool {
            index: answer.place_of(&id)?,
            id,
            name,
            arguments,
            done: false,
        }),
        Piece::ToolEnd { id } => {
            let call = answer.place_of(&id)?;
            end_call(answer, call)
        }
        Piece::Thinking(text) => Some(Output::Thinking(text)),
        Piece::Opaque(_) | Piece::Usage { .. } | Piece::Cached(_) | Piece::Finish(_) | Piece::Alive => None,
    }
}

/// Says once that a call is whole. Without any arguments it has an empty object of them.
fn end_call(answer: &mut Answer, index: usize) -> Option<Output> {
    if !answer.end(index) {
        return None;
    }
    let call = &mut answer.tool_calls[index];
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { "" };
    call.arguments.push_str(arguments);
    Some(Output::Tool {
        index,
        id: call.id.clone(),
        name: call.name.clone(),
        arguments: arguments.to_owned(),
        done: true,
    })
}

/// One attempt with one provider, counted however it ends: whole, failed, or left by the caller.
struct Attempt<'a, 'b> {
    engine: &'a Engine,
    setup: &'a Setup,
    provider: String,
    asked_bytes: usize,
    began: Instant,
    answer: Answer,
    took: Option<Duration>,
    failure: Option<Failure>,
    used: Option<Tokens>,
    /// Gone once it is settled.
    reservation: Option<Reservation>,
    counted: &'a mut Counted<'b>,
}

impl<'a, 'b> Attempt<'a, 'b> {
    fn begin(
        engine: &'a Engine,
        setup: &'a Setup,
        provider: &str,
        request: &Request,
        reservation: Reservation,
        counted: &'a mut Counted<'b>,
    ) -> Self {
        engine.0.board.lock().began(provider);
        Self {
            engine,
            setup,
            provider: provider.to_owned(),
            asked_bytes: request.bytes(),
            began: Instant::now(),
            answer: Answer::default(),
            took: None,
            failure: None,
            used: None,
            reservation: Some(reservation),
            counted,
        }
    }

    /// Of a whole answer: how far budgets are used up, and what it cost.
    fn settle(&mut self) -> (Vec<Use>, Option<u64>) {
        let tokens = self.tokens();
        let Some(mut reservation) = self.reservation.take() else {
            return (Vec::new(), None);
        };
        reservation.used(tokens, self.answer.cached());
        reservation.settle()
    }

    fn tokens(&mut self) -> Tokens {
        let tokens = self.answer.tokens(self.asked_bytes);
        *self.used.insert(tokens)
    }
}

impl Drop for Attempt<'_, '_> {
    fn drop(&mut self) {
        // A refusal before the first token costs nothing; an answer that broke off before it has cost its input.
        let broke_off = self
            .failure
            .as_ref()
            .is_some_and(|failure| matches!(failure.kind, Kind::Broken | Kind::Silent));
        let costs = self.failure.is_none() || self.answer.has_begun();
        let tokens = if costs {
            self.used.unwrap_or_else(|| self.answer.tokens(self.asked_bytes))
        } else {
            Tokens::default()
        };
        if let Some(reservation) = self.reservation.as_mut() {
            if costs {
                reservation.used(tokens, self.answer.cached());
            } else if broke_off {
                reservation.sent_in_vain();
            }
        }
        let policy = self.setup.config.breaker();
        self.counted.tokens += tokens.total();
        self.engine.0.board.lock().ended(
            &self.provider,
            self.took,
            self.failure.as_ref(),
            tokens.total(),
            &policy,
        );
        if costs {
            self.engine.0.ledger.record(&self.provider, tokens);
        }
    }
}
