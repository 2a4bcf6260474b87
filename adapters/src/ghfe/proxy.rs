//! Forwarding staging's deliveries, as they came.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{self, HOST},
    },
};
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// The reference's limit for the whole exchange.
const LIMIT: Duration = Duration::from_secs(30);
/// What is read of staging's answer.
const ANSWER_LIMIT: usize = 1 << 20;

/// Headers about one connection, which mean nothing on the next (RFC 9110, 7.6.1).
const HOP: [HeaderName; 5] =
    [header::CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT];

/// Where staging's deliveries go.
pub trait StagingProxy: Send + Sync {
    /// All headers but Host and those about the connection, the same body; staging's status and body come back.
    fn forward<'a>(
        &'a self,
        headers: &'a HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(StatusCode, String), ProxyError>>;
}

/// Why staging did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Not reached, or it broke off.
    #[error("staging cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("staging did not answer within 30 s")]
    TooSlow,
}

type Connector = hyper_rustls::HttpsConnector<HttpConnector>;

/// Over HTTP or HTTPS.
pub struct HttpProxy {
    client: Client<Connector, Full<Bytes>>,
    url: http::Uri,
}

impl HttpProxy {
    /// Forwards to `url`.
    pub fn new(url: http::Uri) -> std::io::Result<Self> {
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), url })
    }
}

impl StagingProxy for HttpProxy {
    fn forward<'a>(
        &'a self,
        headers: &'a HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(StatusCode, String), ProxyError>> {
        Box::pin(async move {
            let unreachable = |error: &dyn std::error::Error| ProxyError::Unreachable(error.to_string());
            let mut request = http::Request::new(Full::new(body));
            *request.method_mut() = http::Method::POST;
            *request.uri_mut() = self.url.clone();
            *request.headers_mut() = headers.clone();
            for name in HOP.iter().chain([&HOST]) {
                request.headers_mut().remove(name);
            }
            let exchange = async {
                let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
                let body = body.map_err(|error| ProxyError::Unreachable(error.to_string()))?.to_bytes();
                Ok((status, String::from_utf8_lossy(&body).into_owned()))
            };
            timeout(LIMIT, exchange).await.unwrap_or(Err(ProxyError::TooSlow))
        })
    }
}
