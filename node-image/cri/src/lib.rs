//! Generated gRPC stubs of the interfaces between a node agent and its neighbours: the container runtime (CRI v1
//! and containerd's event stream), storage drivers (CSI v1), device plugins (v1beta1) and the registration of
//! both. Clients and servers, so that a test can stand in for either side. It never holds logic beyond
//! connecting to a Unix socket.

mod connect;

pub use connect::{ConnectError, connect, connect_lazy};

/// CRI v1: `RuntimeService` and `ImageService` (containerd 1.6 and later).
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, clippy::large_futures, reason = "generated")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// CSI v1: `Identity`, `Node` and `Controller`.
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, clippy::large_futures, reason = "generated")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Device plugins v1beta1.
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, clippy::large_futures, reason = "generated")]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// Registration of CSI drivers and device plugins.
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, clippy::large_futures, reason = "generated")]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// containerd's event stream.
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, clippy::large_futures, reason = "generated")]
pub mod events {
    tonic::include_proto!("containerd.services.events.v1");
}

/// gRPC health checking.
#[allow(missing_debug_implementations, unused_qualifications, clippy::all, clippy::large_futures, reason = "generated")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
