//! Has the API server review who calls the node and what they may do: TokenReview and
//! SubjectAccessReview.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::server::{Access, ReviewError, Reviewer, TokenReviewed, User};

/// How often a review is asked for, and how long after the first failure again: upstream's
/// `DefaultAuthWebhookRetryBackoff`, each wait half as long again as the last.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Reviews by the API server.
pub(crate) struct Reviews {
    client: Client,
}

impl Reviews {
    /// Reviews over this client, whose user must be allowed to ask for them (a node is:
    /// `system:node`).
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn ask<K>(&self, review: &K) -> Result<K, ReviewError>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            match api.create(&PostParams::default(), review).await {
                Ok(review) => return Ok(review),
                Err(error) if tries < TRIES && may_pass(&error) => {
                    sleep(wait).await;
                    (wait, tries) = (wait * 3 / 2, tries + 1);
                }
                Err(error) => return Err(ReviewError::Ask(error.into())),
            }
        }
    }
}

/// Whether it may go better a moment later (upstream's `DefaultShouldRetry`).
fn may_pass(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error {
        return matches!(status.code, 429 | 500);
    }
    matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_))
}

impl Reviewer for Reviews {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewed, ReviewError>> {
        async move {
            let spec = TokenReviewSpec { token: token.into(), audiences: None };
            let review = TokenReview { spec, ..TokenReview::default() };
            Ok(reviewed(self.ask(&review).await?.status.unwrap_or_default()))
        }
        .boxed()
    }

    fn access<'a>(
        &'a self,
        user: &'a User,
        access: Access<'a>,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        async move {
            let review = SubjectAccessReview { spec: spec(user, access), ..Default::default() };
            let status = self.ask(&review).await?.status.unwrap_or_default();
            match (status.allowed, status.denied.unwrap_or_default()) {
                (true, true) => Err(ReviewError::Nonsense("both allowed and denied".into())),
                (allowed, _) => Ok(allowed),
            }
        }
        .boxed()
    }
}

fn reviewed(status: TokenReviewStatus) -> TokenReviewed {
    if status.authenticated != Some(true) {
        return TokenReviewed::Refused(status.error.unwrap_or_default());
    }
    let UserInfo { extra, groups, uid, username } = status.user.unwrap_or_default();
    TokenReviewed::Of(User {
        name: username.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        groups: groups.unwrap_or_default(),
        extra: extra.unwrap_or_default(),
    })
}

fn spec(user: &User, access: Access<'_>) -> SubjectAccessReviewSpec {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReviewSpec {
        user: given(&user.name),
        uid: given(&user.uid),
        groups: Some(user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
        resource_attributes: Some(ResourceAttributes {
            verb: given(access.verb),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: given(access.subresource),
            name: given(access.node),
            ..ResourceAttributes::default()
        }),
        non_resource_attributes: None,
    }
}
