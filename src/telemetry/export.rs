//! The export of spans, and the subscriber.

use std::{fmt, io, thread};

use http::{HeaderName, HeaderValue};
use opentelemetry::{
    KeyValue, global, propagation::TextMapCompositePropagator, trace::TracerProvider,
};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::{metadata::MetadataMap, transport::ClientTlsConfig},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkError,
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::{runtime, sync::oneshot};
use tower_mesh_layers::ConfigError;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{Filtered, Targets},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::{OtlpConfig, OtlpProtocol, TelemetryConfig, TracesConfig, client::Client};

/// What spans are made by.
const SCOPE: &str = "tower-mesh";

/// The name of a service that has none, as the conventions have it.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// Exports spans for as long as it lives. The [module](super) is the page.
///
/// On its drop what is left is exported, which blocks for 5 s at most.
#[must_use = "the export ends when this is dropped"]
pub struct Telemetry {
    provider: SdkTracerProvider,
    filter: Targets,
    _exporter: Option<ExportRuntime>,
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// An option was refused; the error names it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The exporter could not be made.
    #[error("the exporter: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The process has a subscriber of `tracing` already: add [`Telemetry::layer`] to it.
    #[error("there is a tracing subscriber already: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
    /// The thread of the exporter could not be started.
    #[error("the exporter's thread: {0}")]
    Thread(#[from] io::Error),
    /// Spans could not be exported.
    #[error(transparent)]
    Export(#[from] OTelSdkError),
}

/// Runs the exporter's connections, apart from the runtime of the application: that may be over, or have
/// no thread left, when the last spans are exported.
struct ExportRuntime {
    handle: runtime::Handle,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<()>,
}

// ===== impl Telemetry =====

impl Telemetry {
    /// Begins to export, and becomes the subscriber of this process.
    ///
    /// # Errors
    ///
    /// When an option is refused, or there is a subscriber already.
    pub fn install(
        service: Option<&str>,
        config: &TelemetryConfig,
    ) -> Result<Self, TelemetryError> {
        let telemetry = Self::start(service, config)?;
        let logs = std::env::var(EnvFilter::DEFAULT_ENV).ok();
        let logs = logs.as_deref().filter(|logs| !logs.is_empty());
        let logs = EnvFilter::builder().parse_lossy(logs.unwrap_or(&config.logs));
        Registry::default()
            .with(telemetry.layer())
            .with(tracing_subscriber::fmt::layer().with_filter(logs))
            .try_init()?;
        Ok(telemetry)
    }

    /// Begins to export what [`layer`](Self::layer) is given, and sets OpenTelemetry's tracer provider and
    /// propagators; the subscriber is yours.
    ///
    /// # Errors
    ///
    /// When an option is refused.
    pub fn start(service: Option<&str>, config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        config.validate()?;
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource(service, config))
            .with_sampler(sampler(&config.traces));
        let mut exporter = None;
        if let Some(otlp) = &config.otlp {
            let runtime = ExportRuntime::start()?;
            provider = provider.with_batch_exporter(runtime.exporter(otlp)?);
            exporter = Some(runtime);
        }
        let provider = provider.build();
        global::set_tracer_provider(provider.clone());
        global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
            Box::new(TraceContextPropagator::new()),
            Box::new(BaggagePropagator::new()),
        ]));
        Ok(Self {
            provider,
            filter: filter("traces.filter", &config.traces.filter)?,
            _exporter: exporter,
        })
    }

    /// A layer for a subscriber of your own: it makes spans of `tracing` spans of OpenTelemetry.
    pub fn layer<S>(&self) -> Filtered<OpenTelemetryLayer<S, SdkTracer>, Targets, S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SCOPE))
            // Where a span is in our code says nothing about the call that it is about.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(self.filter.clone())
    }

    /// Exports what has ended so far. Blocks.
    ///
    /// # Errors
    ///
    /// When the collector did not take it.
    pub fn flush(&self) -> Result<(), TelemetryError> {
        Ok(self.provider.force_flush()?)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

// ===== impl ExportRuntime =====

impl ExportRuntime {
    fn start() -> Result<Self, io::Error> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("tower-mesh-otlp".to_owned())
            .spawn(move || drop(runtime.block_on(stopped)))?;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }

    fn exporter(&self, config: &OtlpConfig) -> Result<SpanExporter, TelemetryError> {
        // Connections are opened, and timers run, on the runtime that is current now.
        let _entered = self.handle.enter();
        match config.protocol {
            OtlpProtocol::Grpc => {
                let mut builder = SpanExporter::builder()
                    .with_tonic()
                    .with_timeout(config.timeout)
                    .with_metadata(metadata(config));
                if let Some(endpoint) = &config.endpoint {
                    builder = builder.with_endpoint(endpoint);
                    if endpoint.starts_with("https:") {
                        let tls = ClientTlsConfig::new().with_enabled_roots();
                        builder = builder.with_tls_config(tls);
                    }
                }
                Ok(builder.build()?)
            }
            OtlpProtocol::HttpProtobuf => {
                let headers = config.headers.reveal();
                let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let mut builder = SpanExporter::builder()
                    .with_http()
                    .with_timeout(config.timeout)
                    .with_headers(headers.collect())
                    .with_http_client(Client::new(self.handle.clone(), config.timeout));
                if let Some(endpoint) = &config.endpoint {
                    let endpoint = endpoint.trim_end_matches('/');
                    builder = builder.with_endpoint(format!("{endpoint}/v1/traces"));
                }
                Ok(builder.build()?)
            }
        }
    }
}

fn metadata(config: &OtlpConfig) -> MetadataMap {
    let parsed = |(name, value): (&str, &str)| {
        Some((
            name.parse::<HeaderName>().ok()?,
            value.parse::<HeaderValue>().ok()?,
        ))
    };
    MetadataMap::from_headers(config.headers.reveal().filter_map(parsed).collect())
}

fn resource(service: Option<&str>, config: &TelemetryConfig) -> Resource {
    let attributes = config.resource.iter();
    let attributes = attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let builder = Resource::builder().with_attributes(attributes);
    let service = service.unwrap_or(UNKNOWN_SERVICE);
    builder.with_service_name(service.to_owned()).build()
}

fn sampler(config: &TracesConfig) -> Sampler {
    let own = Sampler::TraceIdRatioBased(config.ratio.as_f64());
    if config.parent_based {
        Sampler::ParentBased(Box::new(own))
    } else {
        own
    }
}

/// Directives of a filter.
pub(super) fn filter(path: &str, directives: &str) -> Result<Targets, ConfigError> {
    const EXPECTED: &str = "a level, or `target=level`, joined by commas";
    directives
        .parse()
        .map_err(|_| ConfigError::new(path, directives, EXPECTED))
}
