//! Pushing: blobs first, then the manifest that names them.

use std::path::Path;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Url};

use super::transport::{Call, Payload, bare};
use super::{Access, Ask, Registries, RegistryError, odd};
use crate::image::digest::Digest;
use crate::image::reference::Repository;

impl Registries {
    /// Puts a blob into a repository, unless it is there already: one that lies in a file of
    /// `bytes` bytes, or one that is given.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(in crate::image) async fn put_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        blob: Blob<'_>,
    ) -> Result<(), RegistryError> {
        let url = self.at(repository, &format!("blobs/{digest}")).await?;
        match self.push(repository, Method::HEAD, url, None, Payload::Empty).await {
            Ok(_) => return Ok(()),
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let url = self.at(repository, "blobs/uploads/").await?;
        let begun = self.push(repository, Method::POST, url, None, Payload::Empty).await?;
        let mut url = location(&begun)?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let body = match blob {
            Blob::Bytes(bytes) => Payload::Bytes(bytes),
            Blob::File(path, bytes) => Payload::File(path.to_owned(), bytes),
        };
        self.push(repository, Method::PUT, url, Some("application/octet-stream"), body).await?;
        Ok(())
    }

    /// Puts a manifest into a repository, under a tag or its digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(in crate::image) async fn put_manifest(
        &self,
        repository: &Repository,
        tag_or_digest: &str,
        (media_type, manifest): (&str, Bytes),
    ) -> Result<(), RegistryError> {
        let url = self.at(repository, &format!("manifests/{tag_or_digest}")).await?;
        let body = Payload::Bytes(manifest);
        self.push(repository, Method::PUT, url, Some(media_type), body).await?;
        Ok(())
    }

    async fn push(
        &self,
        repository: &Repository,
        method: Method,
        url: Url,
        media_type: Option<&str>,
        body: Payload,
    ) -> Result<reqwest::Response, RegistryError> {
        let mut headers = HeaderMap::new();
        if let Some(media_type) = media_type {
            let value = HeaderValue::try_from(media_type).map_err(|_| odd(&url))?;
            headers.insert(CONTENT_TYPE, value);
        }
        self.send(Ask::of(repository), Access::Push, &mut Call { method, url, headers, body }).await
    }
}

/// What is pushed.
pub(in crate::image) enum Blob<'a> {
    /// As it is.
    Bytes(Bytes),
    /// In a file of this many bytes.
    File(&'a Path, u64),
}

/// Where an upload goes on, as the registry says; https may not become http.
fn location(begun: &reqwest::Response) -> Result<Url, RegistryError> {
    let asked = begun.url();
    let named = begun.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let url = named.and_then(|location| asked.join(location).ok()).ok_or_else(|| odd(asked))?;
    if url.scheme() != "https" && url.origin() != asked.origin() {
        let text = format!("it leads an upload to {}, expected https", bare(&url));
        return Err(RegistryError::Answer { url: bare(asked), text });
    }
    Ok(url)
}
