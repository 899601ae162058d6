//! The gate by itself: its caches and their times, with a reviewer that says what it is told.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::{join_all, pending};

use super::*;

/// Says who a token is of and what users may do, and counts how often it is asked.
#[derive(Default)]
struct Scripted {
    /// Of whom each token is.
    tokens: HashMap<&'static str, &'static str>,
    /// What each user may do: `VERB SUBRESOURCE`.
    allowed: HashMap<&'static str, Vec<&'static str>>,
    state: Mutex<State>,
    asked: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Answers,
    Fails,
    Silent,
}

impl Scripted {
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    fn set(&self, state: State) {
        *self.state.lock().expect("whole") = state;
    }

    async fn turn(&self) -> Result<(), ReviewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let state = *self.state.lock().expect("whole");
        match state {
            State::Answers => {
                tokio::task::yield_now().await;
                Ok(())
            }
            State::Fails => Err(ReviewError::Ask("refused".into())),
            State::Silent => pending().await,
        }
    }
}

impl Reviewer for Scripted {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewed, ReviewError>> {
        async move {
            self.turn().await?;
            Ok(match self.tokens.get(token) {
                Some(name) => TokenReviewed::Of(User { name: (*name).into(), ..User::default() }),
                None if token == "unclear" => TokenReviewed::Refused("cannot look it up".into()),
                None => TokenReviewed::Refused(String::new()),
            })
        }
        .boxed()
    }

    fn access<'a>(
        &'a self,
        user: &'a User,
        access: Access<'a>,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        async move {
            self.turn().await?;
            assert_eq!(access.node, "node-1");
            let asked = format!("{} {}", access.verb, access.subresource);
            Ok(self.allowed.get(&*user.name).is_some_and(|may| may.contains(&&*asked)))
        }
        .boxed()
    }
}

fn scripted() -> Arc<Scripted> {
    Arc::new(Scripted {
        tokens: HashMap::from([("t1", "ann"), ("t2", "bob"), ("t3", "eve")]),
        allowed: HashMap::from([
            ("ann", vec!["get proxy", "create proxy"]),
            ("bob", vec!["get pods"]),
            ("system:anonymous", vec!["get healthz"]),
        ]),
        ..Scripted::default()
    })
}

const MINUTE: Duration = Duration::from_secs(60);
/// Who ask all at once.
const STRANGERS: usize = 500;

fn gate(reviewer: &Arc<Scripted>, anonymous: bool, authorization: AuthorizationMode) -> Auth {
    let authentication =
        AuthenticationOptions { anonymous, token_ttl: Some(2 * MINUTE), client_ca_file: None };
    let reviewer = reviewer.clone();
    let auth = Auth::new("node-1".into(), authentication, authorization, reviewer).expect("a gate");
    Auth { now, review_timeout: MINUTE, ..auth }
}

/// The same, which has known enough by now and waits for a silent reviewer in earnest, for this long.
fn hasty(auth: Auth) -> Auth {
    Auth { review_timeout: Duration::from_millis(500), ..auth }
}

/// When the tests began.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    /// How much time has passed for this test, which has a thread of its own.
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn now() -> Instant {
    *START + PASSED.get()
}

fn advance(by: Duration) {
    PASSED.set(PASSED.get() + by);
}

const WEBHOOK: AuthorizationMode = AuthorizationMode::Webhook {
    allowed_ttl: Duration::from_secs(300),
    denied_ttl: Duration::from_secs(30),
};

async fn ask(auth: &Auth, token: &str, path: &str) -> Result<User, (u16, String)> {
    let mut headers = HeaderMap::new();
    if !token.is_empty() {
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().expect("a value"));
    }
    let admitted = auth.admit(&[], &Method::GET, path, &headers).await;
    admitted.map_err(|refusal| (refusal.code.as_u16(), refusal.text))
}

fn code(answer: &Result<User, (u16, String)>) -> u16 {
    answer.as_ref().map_or_else(|(code, _)| *code, |_| 200)
}

#[tokio::test]
async fn who_asks_for_what_decides() {
    let reviewer = scripted();
    let auth = gate(&reviewer, false, WEBHOOK);
    let ann = ask(&auth, "t1", "/pods").await.expect("may");
    assert_eq!((&*ann.name, &*ann.groups), ("ann", &[AUTHENTICATED.to_owned()][..]));
    assert_eq!(reviewer.asked(), 3, "the token, pods, proxy");
    ask(&auth, "t2", "/pods").await.expect("may");
    assert_eq!(reviewer.asked(), 2, "the token, pods");
    let text = "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[proxy])\n";
    assert_eq!(ask(&auth, "t2", "/containerLogs/ns/p/c").await, Err((403, text.into())));
    let text = "Forbidden (user=eve, verb=get, resource=nodes, subresource(s)=[healthz proxy])\n";
    assert_eq!(ask(&auth, "t3", "/healthz").await, Err((403, text.into())));
    for token in ["", "guess", "unclear", &"x".repeat(TOKEN_MAX + 1)] {
        assert_eq!(ask(&auth, token, "/pods").await, Err((401, "Unauthorized".into())));
    }
}

#[tokio::test]
async fn nobody_is_anonymous_unless_that_is_on_and_no_credential_was_bad() {
    let reviewer = scripted();
    let auth = gate(&reviewer, true, WEBHOOK);
    let user = ask(&auth, "", "/healthz").await.expect("may");
    assert_eq!((&*user.name, &*user.groups[0]), ("system:anonymous", "system:unauthenticated"));
    assert_eq!(code(&ask(&auth, "", "/pods").await), 403);
    assert_eq!(code(&ask(&auth, "guess", "/healthz").await), 401);
    let auth = gate(&reviewer, true, AuthorizationMode::AlwaysAllow);
    assert_eq!(code(&ask(&auth, "", "/exec/ns/p/c").await), 200);
}

#[tokio::test]
async fn decisions_are_kept_for_upstreams_times() {
    let reviewer = scripted();
    let auth = gate(&reviewer, false, WEBHOOK);
    ask(&auth, "t1", "/exec/ns/p/c").await.expect("may");
    assert_eq!(code(&ask(&auth, "t2", "/exec/ns/p/c").await), 403);
    assert_eq!(code(&ask(&auth, "guess", "/pods").await), 401);
    assert_eq!(code(&ask(&auth, "unclear", "/pods").await), 401);
    assert_eq!(reviewer.asked(), 6);
    for (after, expected) in
        [(9, [0, 0, 0, 0]), (2, [0, 0, 0, 1]), (20, [0, 1, 0, 1]), (90, [1, 2, 1, 1])]
    {
        advance(Duration::from_secs(after));
        for ((token, path), expected) in [
            ("t1", "/exec/ns/p/c"),
            ("t2", "/exec/ns/p/c"),
            ("guess", "/pods"),
            ("unclear", "/pods"),
        ]
        .into_iter()
        .zip(expected)
        {
            let _ = ask(&auth, token, path).await;
            assert_eq!(reviewer.asked(), expected, "{token} {after} s later");
        }
    }
}

#[tokio::test]
async fn without_the_api_server_what_was_decided_holds_for_its_time() {
    let reviewer = scripted();
    let auth = gate(&reviewer, false, WEBHOOK);
    ask(&auth, "t1", "/exec/ns/p/c").await.expect("may");
    let auth = hasty(auth);
    for state in [State::Fails, State::Silent] {
        reviewer.set(state);
        ask(&auth, "t1", "/exec/ns/p/c").await.expect("may still");
        assert_eq!(code(&ask(&auth, "t2", "/pods").await), 401);
        let text = "Authorization error (user=ann, verb=get, resource=nodes, subresource=stats)";
        assert_eq!(ask(&auth, "t1", "/stats/summary").await, Err((500, text.into())));
    }
    advance(2 * MINUTE);
    assert_eq!(code(&ask(&auth, "t1", "/exec/ns/p/c").await), 401);
    // What failed is not kept.
    let auth = Auth { review_timeout: MINUTE, ..auth };
    reviewer.set(State::Answers);
    ask(&auth, "t1", "/exec/ns/p/c").await.expect("may again");
    advance(MINUTE + MINUTE / 2);
    ask(&auth, "t1", "/exec/ns/p/c").await.expect("may");
    reviewer.set(State::Fails);
    advance(2 * MINUTE);
    let answer = ask(&auth, "t1", "/exec/ns/p/c").await;
    assert_ne!(code(&answer), 200, "an allowance past its time");
}

#[tokio::test]
async fn many_at_once_take_turns() {
    let reviewer = scripted();
    let auth = gate(&reviewer, false, WEBHOOK);
    let answers = join_all((0..100).map(|_| ask(&auth, "t1", "/exec/ns/p/c"))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(reviewer.asked() <= 2 * REVIEWS);
    // Strangers' tokens that nobody answers for do not stand before one who is known.
    reviewer.set(State::Silent);
    let auth = hasty(auth);
    let strangers: Vec<String> = (0..STRANGERS).map(|n| format!("guess-{n}")).collect();
    let mut strangers = std::pin::pin!(join_all(strangers.iter().map(|t| ask(&auth, t, "/pods"))));
    assert!(strangers.as_mut().now_or_never().is_none());
    assert_eq!(reviewer.asked(), REVIEWS, "one for each turn");
    ask(&auth, "t1", "/exec/ns/p/c").await.expect("may");
    let answers = strangers.await;
    assert!(answers.iter().all(|answer| code(answer) == 401));
    // But for some whose time began later than that of the first, as on a busy machine.
    assert!(reviewer.asked() < STRANGERS / 2, "the rest had no turn in time");
}

#[test]
fn a_bearer_token_is_read_as_upstream_does() {
    let token = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a value"));
        bearer(&headers).map(String::from)
    };
    assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
    assert_eq!(token(" bearer abc x ").as_deref(), Some("abc"));
    for none in ["abc", "Basic abc", "Bearer", "Bearer  abc"] {
        assert_eq!(token(none), None, "{none}");
    }
}
