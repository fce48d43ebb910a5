use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;
use tower_mesh_layers::outcome::FailureKind;

use super::{
    server::{Behaviour, Server},
    *,
};
use crate::endpoint::http::{HttpProtocol, TlsConfig};

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn acceptor(identity: &Identity, clients: Option<&Authority>, alpn: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
                .unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn server(tls: TlsAcceptor) -> Server {
    Server::start(Behaviour {
        tls: Some(tls),
        ..Behaviour::default()
    })
    .await
}

fn trusting(authority: &Authority) -> HttpEndpointConfig {
    let tls = TlsConfig {
        ca: Some(authority.pem().as_str().into()),
        ..TlsConfig::default()
    };
    HttpEndpointConfig {
        tls,
        ..HttpEndpointConfig::default()
    }
}

#[tokio::test]
async fn alpn_decides_the_protocol() {
    let authority = Authority::new();
    let identity = authority.issue("127.0.0.1");
    for (alpn, scheme, version) in [
        (&["h2", "http/1.1"][..], "https", "HTTP/2.0"),
        (&["http/1.1"], "https", "HTTP/1.1"),
        (&[], "https", "HTTP/1.1"),
        (&["h2"], "grpcs", "HTTP/2.0"),
        (&[], "grpcs", "HTTP/2.0"),
    ] {
        let server = server(acceptor(&identity, None, alpn)).await;
        let endpoint = endpoint_with(trusting(&authority), &server.url(scheme));
        let calls = (0..5).map(|_| fetch(&endpoint, get("/")));
        for answer in futures_util::future::join_all(calls).await {
            let answer = answer.unwrap();
            assert!(
                answer.starts_with(version.as_bytes()),
                "{alpn:?}: {answer:?}"
            );
        }
        if version == "HTTP/2.0" {
            assert_eq!(server.connections(), 1);
        }
    }
    let server = server(acceptor(&identity, None, &["h2", "http/1.1"])).await;
    let config = HttpEndpointConfig {
        protocol: HttpProtocol::Http1,
        ..trusting(&authority)
    };
    let answer = fetch(&endpoint_with(config, &server.url("https")), get("/"))
        .await
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1"));
}

/// A registry that looks names up knows the name that the address is of. What is configured goes first.
#[tokio::test]
async fn an_instance_may_say_what_its_certificate_is_for() {
    let authority = Authority::new();
    let identity = authority.issue("orders.example");
    let server = server(acceptor(&identity, None, &["http/1.1"])).await;
    let url: EndpointUrl = server.url("https").parse().unwrap();
    let named =
        |name: &str| Instance::at("orders", url.clone()).with_metadata(Instance::SERVER_NAME, name);
    let mut configured = trusting(&authority);
    configured.tls.server_name = Some("orders.example".to_owned());
    for (config, name, good) in [
        (trusting(&authority), "orders.example", true),
        (trusting(&authority), "payments.example", false),
        (configured, "payments.example", true),
    ] {
        let endpoints = HttpEndpoints::new(config).unwrap();
        let endpoint = endpoints.make_endpoint(&named(name), &url).unwrap();
        assert_eq!(fetch(&endpoint, get("/")).await.is_ok(), good, "{name}");
    }
    let refused = HttpEndpoints::default().make_endpoint(&named("no name"), &url);
    assert!(matches!(
        refused,
        Err(crate::endpoint::http::MakeHttpError::ServerName(_))
    ));
}

#[tokio::test]
async fn an_unknown_issuer_a_wrong_name_and_a_missing_protocol_are_errors_of_poll_ready() {
    let (authority, other) = (Authority::new(), Authority::new());
    let identity = authority.issue("orders.example");
    let server = server(acceptor(&identity, None, &["http/1.1"])).await;
    let named = |name: &str| {
        let mut config = trusting(&authority);
        config.tls.server_name = Some(name.to_owned());
        config
    };
    let mut unknown = trusting(&other);
    unknown.tls.server_name = Some("orders.example".to_owned());
    for (config, scheme) in [
        (unknown, "https"),
        (trusting(&authority), "https"),
        (named("payments.example"), "https"),
        (named("orders.example"), "grpcs"),
    ] {
        let error = ready(&mut endpoint_with(config, &server.url(scheme)))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.is_unsent()),
            (FailureKind::Connect, true)
        );
    }
    let endpoint = endpoint_with(named("orders.example"), &server.url("https"));
    fetch(&endpoint, get("/")).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_it_is_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = server(acceptor(
        &authority.issue("127.0.0.1"),
        Some(&clients),
        &["h2"],
    ))
    .await;
    let identity = clients.issue("checkout");
    let mut config = trusting(&authority);
    config.tls.certificate = Some(identity.certificate.as_str().into());
    config.tls.key = Some(identity.key.as_str().into());
    fetch(&endpoint_with(config, &server.url("https")), get("/"))
        .await
        .unwrap();
    // TLS 1.3 refuses only after the handshake looks complete to the client.
    let anonymous = endpoint_with(trusting(&authority), &server.url("https"));
    assert!(fetch(&anonymous, get("/")).await.is_err());
}

#[tokio::test]
async fn a_peer_that_never_shakes_hands_costs_the_connect_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = HttpEndpointConfig {
        connect_timeout: Duration::from_millis(20),
        ..trusting(&Authority::new())
    };
    let mut endpoint = endpoint_with(config, &url);
    let error = ready(&mut endpoint).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_unsent()),
        (FailureKind::Connect, true)
    );
}

#[test]
fn bad_tls_settings_name_their_field() {
    let identity = Authority::new().issue("a");
    let refused = |tls| {
        let config = HttpEndpointConfig {
            tls,
            ..HttpEndpointConfig::default()
        };
        HttpEndpoints::new(config).unwrap_err().path().to_owned()
    };
    let tls = TlsConfig::default;
    assert_eq!(
        refused(TlsConfig {
            ca: Some("/no/such/file".into()),
            ..tls()
        }),
        "tls.ca"
    );
    assert_eq!(
        refused(TlsConfig {
            ca: Some("-----BEGIN".into()),
            ..tls()
        }),
        "tls.ca"
    );
    let key = Some(identity.key.as_str().into());
    assert_eq!(
        refused(TlsConfig {
            key: key.clone(),
            ..tls()
        }),
        "tls.certificate"
    );
    let certificate = Some(identity.certificate.as_str().into());
    assert_eq!(
        refused(TlsConfig {
            certificate: certificate.clone(),
            ..tls()
        }),
        "tls.key"
    );
    assert_eq!(
        refused(TlsConfig {
            certificate: key,
            key: certificate,
            ..tls()
        }),
        "tls.certificate"
    );
    let name = Some("not a name".to_owned());
    assert_eq!(
        refused(TlsConfig {
            server_name: name,
            ..tls()
        }),
        "tls.serverName"
    );
}
