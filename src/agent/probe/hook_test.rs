use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;
use crate::probe::test_server::{ClosedPort, Does, Scripted, Server, answer, pod};
use crate::runtime::{ExecError, ExecOutput};

async fn run(handler: Value, commands: &Scripted) -> HookEnd {
    let (pod, mut container) = pod();
    container.env = serde_json::from_value(json!([{"name": "A", "value": "1"}])).unwrap();
    let ip = Some(Ipv4Addr::LOCALHOST.into());
    let target = Target { pod: &pod, container: &container, ip };
    hook(&serde_json::from_value(handler).unwrap(), target, commands).await
}

async fn get(action: Value) -> HookEnd {
    run(json!({"httpGet": action}), &Scripted::new(Vec::new())).await
}

#[tokio::test]
async fn a_command_is_run_as_it_is_and_without_a_limit() {
    let commands = Scripted::new(vec![
        Ok(ExecOutput::default()),
        Ok(ExecOutput { code: 3, stdout: b"o\n".into(), stderr: b"e".into() }),
        Err(ExecError::NotRunning("wasm://1".into())),
    ]);
    let handler = json!({"exec": {"command": ["sh", "-c", "$(A)"]}});
    assert_eq!(run(handler.clone(), &commands).await.result, Ok(()));
    let text = "Exec lifecycle hook ([sh -c $(A)]) for Container \"c\" in Pod \"p_ns(u)\" failed - \
                error: command 'sh -c $(A)' exited with 3: e, message: \"o\\ne\"";
    assert_eq!(run(handler.clone(), &commands).await.result, Err(text.into()));
    let text = "Exec lifecycle hook ([sh -c $(A)]) for Container \"c\" in Pod \"p_ns(u)\" failed - \
                error: container not running (wasm://1), message: \"\"";
    assert_eq!(run(handler, &commands).await.result, Err(text.into()));
    let command: Vec<String> = ["sh", "-c", "$(A)"].map(str::to_owned).into();
    assert_eq!(commands.given(), vec![(command, Duration::ZERO); 3]);
}

#[tokio::test]
async fn any_answer_to_a_get_is_a_success() {
    for does in [answer("500 No", &[], "x"), answer("404 None", &["A: b"], "")] {
        let server = Server::start(vec![does]).await;
        let end = get(json!({"port": server.address.port(), "path": "/bye"})).await;
        assert_eq!((end.result, end.told), (Ok(()), None));
        let heard = server.heard();
        assert!(heard[0].starts_with("GET /bye HTTP/1.1\r\n"), "{heard:?}");
        assert!(heard[0].contains("User-Agent: kube-lifecycle/1.36\r\n"), "{heard:?}");
    }
    let closed = ClosedPort::new();
    let at = closed.address;
    let text = format!(
        "HTTP lifecycle hook (/bye) for Container \"c\" in Pod \"p_ns(u)\" failed - error: Get \
         \"http://{at}/bye\": dial tcp {at}: connect: connection refused"
    );
    assert_eq!(get(json!({"port": at.port(), "path": "/bye"})).await.result, Err(text));
}

#[tokio::test]
async fn https_that_is_answered_in_the_open_is_asked_so_without_what_is_secret() {
    let plain = Server::start(vec![answer("400 Bad", &[], ""), answer("200 OK", &[], "")]).await;
    let secret = json!([{"name": "authorization", "value": "s"}, {"name": "X", "value": "y"}]);
    let port = plain.address.port();
    let action = json!({"port": port, "scheme": "HTTPS", "path": "/", "httpHeaders": secret});
    let end = get(action.clone()).await;
    assert_eq!(end.result, Ok(()));
    let told = end.told.unwrap();
    assert_eq!((told.warning, &*told.reason), (true, "LifecycleHTTPFallback"));
    assert_eq!(
        told.message,
        format!(
            "request to HTTPS lifecycle hook 127.0.0.1:{port} got HTTP response, retry with HTTP \
             succeeded"
        )
    );
    let second = &plain.heard()[1];
    assert!(second.contains("X: y\r\n") && !second.contains("uthorization"), "{second}");

    let tls = Server::tls(vec![answer("200 OK", &[], "")]).await;
    let mut action = action;
    action["port"] = json!(tls.address.port());
    let end = get(action).await;
    assert_eq!((end.result, end.told), (Ok(()), None));
    assert!(tls.heard()[0].contains("Authorization: s\r\n"));

    let broken = Server::start(vec![answer("400 Bad", &[], ""), Does::Says(String::new())]).await;
    let end = get(json!({"port": broken.address.port(), "scheme": "HTTPS", "path": "/"})).await;
    let text = "server gave HTTP response to HTTPS client";
    assert!(end.result.unwrap_err().ends_with(text) && end.told.is_none());
}

#[tokio::test]
async fn a_socket_is_no_hook() {
    let end = run(json!({"tcpSocket": {"port": 8080}}), &Scripted::new(Vec::new())).await;
    let text = "Cannot run handler: invalid handler: &LifecycleHandler{Exec:nil,HTTPGet:nil,\
                TCPSocket:&TCPSocketAction{Port:{0 8080 },Host:,},Sleep:nil,}";
    assert_eq!(end.result, Err(text.into()));
}

#[tokio::test]
async fn a_get_goes_out_as_gos_own_client_sends_it() {
    let server = Server::start(vec![answer("200 OK", &[], "")]).await;
    let port = server.address.port();
    for headers in [
        json!([]),
        json!([{"name": "Range", "value": "bytes=0-1"}]),
        json!([{"name": "accept-encoding", "value": "br"}, {"name": "Connection", "value": "close"}]),
    ] {
        let action = json!({"port": port, "path": "/bye", "httpHeaders": headers});
        assert_eq!(get(action).await.result, Ok(()), "{headers}");
    }
    let common = format!(
        "GET /bye HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kube-lifecycle/1.36\r\nAccept: \
         */*\r\n"
    );
    let own =
        ["Accept-Encoding: gzip", "Range: bytes=0-1", "Accept-Encoding: br\r\nConnection: close"];
    assert_eq!(server.heard(), own.map(|own| format!("{common}{own}\r\n\r\n")));
}

#[tokio::test]
async fn one_that_is_cut_short_is_told_as_gos_context_is() {
    let (pod, container) = pod();
    let target = Target { pod: &pod, container: &container, ip: None };
    let told = |handler: Value| canceled(&serde_json::from_value(handler).unwrap(), target);
    assert_eq!(
        told(json!({"exec": {"command": ["sleep", "9"]}})),
        "Exec lifecycle hook ([sleep 9]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: rpc \
         error: code = Canceled desc = context canceled, message: \"\""
    );
    assert_eq!(
        told(json!({"httpGet": {"port": 1, "path": "/bye"}})),
        "HTTP lifecycle hook (/bye) for Container \"c\" in Pod \"p_ns(u)\" failed - error: context \
         canceled"
    );
}
