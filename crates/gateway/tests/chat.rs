//! StreamChat and StreamResponses, as a client sees them.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod fake;

use fake::site::{Site, Talk, cuts, read_responses, user};
use nexus_proto::gateway::v1::*;
use tonic::Code;

async fn ask(site: &Site, talk: &Talk, session: &str, behind: &str, text: &str) -> String {
    talk.say(session, user("", text)).await;
    site.fake.asked(behind, text).await
}

#[tokio::test]
async fn an_answer_comes_token_by_token_and_its_text_once() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    let mut message = user("mine", "Hello!");
    message.metadata = Some(GatewayMessageMetadata {
        model: "big".into(),
        correlation_id: "c-1".into(),
        extra: [("tone".to_owned(), "dry".to_owned())].into(),
        ..GatewayMessageMetadata::default()
    });
    talk.say(&session, message).await;
    assert_eq!(
        site.fake.asked(&behind, "Hello!").await,
        "mine",
        "the client's id is kept"
    );
    {
        let memory = site.fake.memory();
        let stored = &memory.sessions[&behind].messages[0];
        let extra = &stored.metadata.as_ref().unwrap().extra;
        assert_eq!(
            (
                extra["model"].as_str(),
                extra["correlation_id"].as_str(),
                extra["tone"].as_str()
            ),
            ("big", "c-1", "dry")
        );
    }

    site.fake.delta(&behind, "Good ");
    let begun = talk.read_until(StreamState::Active).await;
    assert!(begun.chunks.is_empty());
    let Some(stream_chat_response::Payload::Chunk(first)) = talk.next().await.unwrap() else {
        panic!("no chunk")
    };
    assert_eq!(
        (first.text.as_str(), first.is_delta, first.sequence),
        ("Good ", true, 0)
    );
    site.fake.delta(&behind, "day.");
    site.fake.finish(&behind);
    let rest = talk.read_until(StreamState::Complete).await;
    assert_eq!(rest.printed, "day.");
    let last = rest.chunks.last().unwrap();
    assert!(last.is_final && !last.is_delta && last.text.is_empty() && last.data.is_empty());
    let metadata = last.metadata.as_ref().unwrap();
    assert_eq!(
        (metadata.content_type.as_str(), metadata.total_bytes, metadata.progress),
        ("text/plain", 9, 1.0)
    );
    assert_eq!(
        (
            metadata.extra["in_reply_to"].as_str(),
            metadata.extra["message_id"].as_str()
        ),
        ("mine", "answer-mine")
    );
    assert_eq!(
        (rest.last.bytes_sent, rest.last.chunks_sent),
        (9, 1 + rest.chunks.len() as i64)
    );
    assert!(rest.last.started_at.is_some() && rest.last.ended_at.is_some());

    talk.half_close();
    talk.ends_ok().await;
}

#[tokio::test]
async fn the_client_of_the_documents_sends_half_closes_and_prints() {
    let site = Site::new().await;
    site.fake.memory().echoes = true;
    let (session, _) = site.session(cuts(1024, true)).await;
    let mut talk = site.chat().await;
    talk.say(&session, user("", "tell me of grüne Käfer")).await;
    talk.half_close();
    let heard = talk.read_until(StreamState::Complete).await;
    assert_eq!(heard.printed, "you said: tell me of grüne Käfer");
    talk.ends_ok().await;
}

#[tokio::test]
async fn without_deltas_the_whole_answer_comes_in_pieces_of_the_size_asked_for() {
    let site = Site::new().await;
    let (session, behind) = site.session(cuts(5, false)).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "go").await;
    site.fake.delta(&behind, "äöü");
    site.fake.delta(&behind, "ß€12");
    site.fake.finish(&behind);
    let heard = talk.read_until(StreamState::Complete).await;
    let texts: Vec<_> = heard.chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    assert_eq!(texts, ["äö", "üß", "€12"]);
    assert!(
        heard
            .chunks
            .iter()
            .all(|chunk| !chunk.is_delta && chunk.text.len() <= 5)
    );
    let finals: Vec<_> = heard.chunks.iter().map(|chunk| chunk.is_final).collect();
    assert_eq!(finals, [false, false, true]);
    let sequences: Vec<_> = heard.chunks.iter().map(|chunk| chunk.sequence).collect();
    assert_eq!(sequences, [0, 1, 2]);
}

#[tokio::test]
async fn pieces_keep_the_pause_asked_for() {
    let site = Site::new().await;
    let stream_config = Some(StreamConfig {
        chunk_size: 1,
        chunk_delay_ns: 30_000_000,
        enable_delta: false,
    });
    let config = GatewaySessionConfig {
        stream_config,
        ..GatewaySessionConfig::default()
    };
    let (session, behind) = site.session(Some(config)).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "go").await;
    site.fake.delta(&behind, "1234");
    let begun = std::time::Instant::now();
    site.fake.finish(&behind);
    let heard = talk.read_until(StreamState::Complete).await;
    assert_eq!(heard.chunks.len(), 4);
    assert!(
        begun.elapsed() >= std::time::Duration::from_millis(90),
        "three pauses lie between four pieces"
    );
}

#[tokio::test]
async fn heartbeats_are_echoed_before_and_after_the_session_is_named() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    for named in ["", "nowhere", session.as_str(), ""] {
        talk.heartbeat(named).await;
        assert_eq!(
            talk.next().await.unwrap(),
            Some(stream_chat_response::Payload::Heartbeat(()))
        );
    }
    ask(&site, &talk, &session, &behind, "go").await;
    talk.heartbeat("").await;
    assert_eq!(
        talk.next().await.unwrap(),
        Some(stream_chat_response::Payload::Heartbeat(())),
        "during an answer too"
    );
}

#[tokio::test]
async fn a_failed_turn_is_told_and_the_stream_goes_on() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "one").await;
    site.fake.fail(&behind, "NOT_FOUND: assistant agent not found");
    let heard = talk.read_until(StreamState::Error).await;
    assert_eq!(heard.last.message, "NOT_FOUND: assistant agent not found");
    ask(&site, &talk, &session, &behind, "two").await;
    site.fake.delta(&behind, "yes");
    site.fake.finish(&behind);
    assert_eq!(talk.read_until(StreamState::Complete).await.printed, "yes");
    talk.half_close();
    talk.ends_ok().await;
}

#[tokio::test]
async fn a_cancel_stops_the_turn_and_ends_the_stream() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    let asked = ask(&site, &talk, &session, &behind, "a long one").await;
    site.fake.delta(&behind, "Once upon");
    talk.read_until(StreamState::Active).await;
    talk.cancel(false).await;
    let heard = talk.read_until(StreamState::Cancelled).await;
    assert_eq!(heard.printed, "Once upon", "what was produced is not lost");
    assert!(!heard.states.contains(&StreamState::Complete) && !heard.states.contains(&StreamState::Error));
    talk.ends_ok().await;
    assert_eq!(site.fake.memory().cancelled, [asked]);
}

#[tokio::test]
async fn a_forced_cancel_waits_for_nothing_and_is_heard_all_the_same() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    let asked = ask(&site, &talk, &session, &behind, "a long one").await;
    talk.cancel(true).await;
    let heard = talk.read_until(StreamState::Cancelled).await;
    assert_eq!((heard.printed.as_str(), heard.last.message.as_str()), ("", "enough"));
    talk.ends_ok().await;
    let cancelled = site
        .fake
        .until("the cancel", |memory| memory.cancelled.first().cloned())
        .await;
    assert_eq!(cancelled, asked);
}

#[tokio::test]
async fn an_orchestrator_that_restarts_in_the_middle_ends_nothing_and_doubles_nothing() {
    let mut site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "first").await;
    site.fake.delta(&behind, "half ");
    talk.read_until(StreamState::Active).await;
    let Some(stream_chat_response::Payload::Chunk(chunk)) = talk.next().await.unwrap() else {
        panic!("no chunk")
    };
    let mut printed = chunk.text;

    site.kill_orchestrator();
    talk.read_until(StreamState::Paused).await;
    talk.say("", user("", "second")).await;
    site.start_orchestrator();
    talk.read_until(StreamState::Active).await;
    site.fake.asked(&behind, "second").await;

    // The turn is done once more, from its beginning.
    site.fake.start_over(&behind);
    site.fake.delta(&behind, "half and ");
    site.fake.delta(&behind, "half");
    site.fake.finish(&behind);
    printed.push_str(&talk.read_until(StreamState::Complete).await.printed);
    assert_eq!(printed, "half and half");
    site.fake.delta(&behind, "next");
    site.fake.finish(&behind);
    assert_eq!(talk.read_until(StreamState::Complete).await.printed, "next");
    let memory = site.fake.memory();
    let users = memory.sessions[&behind]
        .messages
        .iter()
        .filter(|message| message.role() == nexus_proto::orchestrator::v1::MessageRole::User);
    assert_eq!(users.count(), 2, "nothing is stored twice");
}

#[tokio::test]
async fn an_answer_that_was_finished_meanwhile_is_delivered() {
    let mut site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "first").await;
    site.fake.delta(&behind, "a");
    talk.read_until(StreamState::Active).await;
    site.kill_orchestrator();
    talk.read_until(StreamState::Paused).await;
    site.fake.delta(&behind, "bc");
    site.fake.finish(&behind);
    talk.half_close();
    site.start_orchestrator();
    let heard = talk.read_until(StreamState::Complete).await;
    assert!(heard.printed.ends_with("bc"), "{heard:?}");
    talk.ends_ok().await;
}

#[tokio::test]
async fn an_answer_that_starts_over_differently_says_so() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "go").await;
    site.fake.delta(&behind, "One");
    talk.read_until(StreamState::Active).await;
    assert!(matches!(
        talk.next().await.unwrap(),
        Some(stream_chat_response::Payload::Chunk(_))
    ));
    site.fake.start_over(&behind);
    site.fake.delta(&behind, "Two");
    let told = talk.read_until(StreamState::Active).await;
    assert_eq!(told.last.message, "the answer starts over");
    site.fake.finish(&behind);
    let heard = talk.read_until(StreamState::Complete).await;
    assert_eq!((heard.printed.as_str(), heard.chunks[0].sequence), ("Two", 0));
}

#[tokio::test]
async fn an_orchestrator_that_stays_away_fails_the_question_and_not_the_stream() {
    let mut site = Site::with(&[("orchestrator_patience", "200ms")]).await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "go").await;
    site.kill_orchestrator();
    let heard = talk.read_until(StreamState::Error).await;
    assert!(heard.last.message.starts_with("UNAVAILABLE"), "{:?}", heard.last);
    talk.heartbeat("").await;
    assert_eq!(
        talk.next().await.unwrap(),
        Some(stream_chat_response::Payload::Heartbeat(()))
    );
}

#[tokio::test]
async fn silence_has_an_end() {
    let site = Site::with(&[("answer_timeout", "200ms")]).await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    ask(&site, &talk, &session, &behind, "go").await;
    talk.half_close();
    let heard = talk.read_until(StreamState::Error).await;
    assert!(heard.last.message.starts_with("DEADLINE_EXCEEDED"), "{:?}", heard.last);
    talk.ends_ok().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_in_the_stream() {
    let site = Site::new().await;
    let config = GatewaySessionConfig {
        max_message_size: 4,
        ..GatewaySessionConfig::default()
    };
    let (session, behind) = site.session(Some(config)).await;
    let mut talk = site.chat().await;
    talk.say(&session, user("", "12345")).await;
    let heard = talk.read_until(StreamState::Error).await;
    assert!(heard.last.message.contains("max_message_size"), "{:?}", heard.last);
    ask(&site, &talk, &session, &behind, "1234").await;
}

#[tokio::test]
async fn a_session_that_closes_ends_its_streams() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    talk.heartbeat(&session).await;
    talk.next().await.unwrap();
    site.fake.heard_by(&behind, 1).await;
    let request = CloseGatewaySessionRequest {
        session_id: session,
        reason: String::new(),
    };
    site.client().close_gateway_session(request).await.unwrap();
    assert_eq!(talk.next().await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_at_once() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let mut talk = site.chat().await;
    talk.heartbeat(&session).await;
    talk.next().await.unwrap();
    site.fake.heard_by(&behind, 1).await;
    let mut client = site.client();
    assert_eq!(client.get_status(()).await.unwrap().into_inner().active_streams, 1);
    drop(talk);
    let gone = async { while client.get_status(()).await.unwrap().into_inner().active_streams != 0 {} };
    tokio::time::timeout(std::time::Duration::from_secs(5), gone)
        .await
        .unwrap();
    site.fake
        .until("the line to be let go", |memory| {
            (memory.sessions[&behind].tell.receiver_count() == 0).then_some(())
        })
        .await;
}

fn responses(session_id: &str, message_id: &str) -> StreamResponsesRequest {
    StreamResponsesRequest {
        session_id: session_id.into(),
        message_id: message_id.into(),
        ..StreamResponsesRequest::default()
    }
}

async fn send(site: &Site, session: &str, id: &str, text: &str) {
    let message = Some(user(id, text));
    let request = GatewaySendMessageRequest {
        session_id: session.into(),
        message,
    };
    site.client().gateway_send_message(request).await.unwrap();
}

#[tokio::test]
async fn responses_follow_one_message_to_its_end() {
    for shy in [false, true] {
        let site = Site::new().await;
        site.fake.memory().shy = shy;
        let (session, behind) = site.session(None).await;
        send(&site, &session, "q1", "one").await;
        let mut stream = site
            .client()
            .stream_responses(responses(&session, "q1"))
            .await
            .unwrap()
            .into_inner();
        site.fake.heard_by(&behind, 1).await;
        site.fake.delta(&behind, "to ");
        let begun = read_responses(&mut stream, Some(StreamState::Active)).await;
        assert!(begun.chunks.is_empty());
        site.fake.delta(&behind, "one");
        site.fake.finish(&behind);
        let heard = read_responses(&mut stream, None).await;
        assert_eq!(heard.printed, "to one");
        assert_eq!(heard.states, [StreamState::Complete], "and then the stream ends");
        assert!(
            heard
                .chunks
                .iter()
                .any(|chunk| chunk.is_delta && chunk.metadata.is_none())
        );

        // Stored by now: the same again, as often as wanted.
        let mut again = site
            .client()
            .stream_responses(responses(&session, "q1"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(read_responses(&mut again, None).await.printed, "to one");
    }
}

#[tokio::test]
async fn responses_without_a_message_begin_at_the_newest_and_stay() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    site.fake.memory().echoes = true;
    send(&site, &session, "q1", "one").await;
    send(&site, &session, "q2", "two").await;
    let mut stream = site
        .client()
        .stream_responses(responses(&session, ""))
        .await
        .unwrap()
        .into_inner();
    let heard = read_responses(&mut stream, Some(StreamState::Complete)).await;
    assert_eq!(heard.printed, "you said: two");
    site.fake.heard_by(&behind, 1).await;
    send(&site, &session, "q3", "three").await;
    let heard = read_responses(&mut stream, Some(StreamState::Complete)).await;
    assert_eq!(heard.printed, "you said: three");
    let sequence: u64 = heard.chunks.last().unwrap().metadata.as_ref().unwrap().extra["sequence"]
        .parse()
        .unwrap();

    // Resumed: everything after what was heard, and nothing before.
    let resumed = StreamResponsesRequest {
        after_sequence: Some(sequence - 3),
        ..responses(&session, "")
    };
    let mut resumed = site.client().stream_responses(resumed).await.unwrap().into_inner();
    let first = read_responses(&mut resumed, Some(StreamState::Complete)).await;
    assert_eq!(first.printed, "you said: two");
    assert_eq!(
        read_responses(&mut resumed, Some(StreamState::Complete)).await.printed,
        "you said: three"
    );
    let beyond = StreamResponsesRequest {
        after_sequence: Some(sequence + 1),
        ..responses(&session, "")
    };
    assert_eq!(
        site.client().stream_responses(beyond).await.unwrap_err().code(),
        Code::OutOfRange
    );
}

#[tokio::test]
async fn responses_cut_as_the_options_say() {
    let site = Site::new().await;
    let (session, _) = site.session(cuts(0, false)).await;
    site.fake.memory().echoes = true;
    send(&site, &session, "q", "12345").await;
    let options = StreamOptions {
        chunk_size: 6,
        include_events: false,
        include_metadata: true,
    };
    let request = StreamResponsesRequest {
        options: Some(options),
        ..responses(&session, "q")
    };
    let mut stream = site.client().stream_responses(request).await.unwrap().into_inner();
    let heard = read_responses(&mut stream, None).await;
    assert_eq!(
        heard.chunks.iter().map(|c| c.text.as_str()).collect::<Vec<_>>(),
        ["you sa", "id: 12", "345"]
    );
    assert!(heard.chunks.iter().all(|chunk| chunk.metadata.is_some()));
}

#[tokio::test]
async fn a_turn_that_failed_before_anyone_asked_is_told() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    send(&site, &session, "q", "one").await;
    site.fake.fail(&behind, "UNAVAILABLE: gone");
    let mut stream = site
        .client()
        .stream_responses(responses(&session, "q"))
        .await
        .unwrap()
        .into_inner();
    let heard = read_responses(&mut stream, None).await;
    assert_eq!(
        (heard.states.as_slice(), heard.last.message.as_str()),
        (&[StreamState::Error][..], "UNAVAILABLE: gone")
    );
}

#[tokio::test]
async fn an_idle_reader_hears_heartbeats_if_it_wants_them() {
    let site = Site::with(&[("heartbeat_interval", "20ms")]).await;
    let (session, _) = site.session(None).await;
    let options = StreamOptions {
        include_events: true,
        ..StreamOptions::default()
    };
    let request = StreamResponsesRequest {
        options: Some(options),
        ..responses(&session, "")
    };
    let mut stream = site.client().stream_responses(request).await.unwrap().into_inner();
    let next = tokio::time::timeout(std::time::Duration::from_secs(5), stream.message());
    let frame = next.await.unwrap().unwrap().unwrap();
    assert_eq!(frame.payload, Some(stream_responses_response::Payload::Heartbeat(())));
}
