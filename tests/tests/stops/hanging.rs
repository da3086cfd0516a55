//! A call that never ends.

use nexus_client::Connection;
use nexus_tests::{ask, raw};
use tokio::task::JoinHandle;
use tonic::Status;

/// A unary call whose message never comes. The server has seen it when this returns.
pub async fn hanging_call(connection: &Connection) -> JoinHandle<Status> {
    let path = "/orchestrator.v1.OrchestratorService/SendMessage";
    let call = raw::Call {
        bytes: vec![raw::announced(100)],
        stays_open: true,
        ..raw::Call::default()
    };
    let connection = connection.clone();
    // Calls of one connection arrive in the order in which they are made.
    connection.connect().await.expect("the orchestrator is there");
    let (sent, on_its_way) = tokio::sync::oneshot::channel();
    let caller = connection.clone();
    let hanging = tokio::spawn(async move {
        let call = raw::call(&caller, path, call);
        tokio::pin!(call);
        tokio::select! {
            biased;
            answer = &mut call => return answer.status,
            () = tokio::task::yield_now() => {}
        }
        let _listens = sent.send(());
        call.await.status
    });
    on_its_way.await.expect("the call does not end");
    ask::create(&connection, "after the call").await;
    hanging
}
