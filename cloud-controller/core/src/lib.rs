//! What every cloud must be able to do, and every decision of the cloud-controller.
//!
//! Owns the cloud traits, the values that cross them, and pure plans: observed state in, actions out. Never reads a
//! clock, opens a socket, draws a random number or keeps state outside the ledgers that callers hand in.

mod absence;
mod action;
mod cloud;
mod error;
mod machines;
mod model;
mod nodes;
mod objects;
mod quantity;
mod routes;
mod services;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod volumes;

pub use absence::{AbsenceLedger, is_mass_disappearance};
pub use action::{Act, Action, CloudCall, Kind, Outcome, Subject};
pub use cloud::{Cloud, Instances, LoadBalancers, Machines, Metadata, Routes, Volumes};
pub use error::{CloudError, CloudResult};
pub use machines::{
    ANNOTATION_POWER, FINALIZER_MACHINE, MachineMemory, MachineStep, MachineView, Seen, fleet_tags, plan_machines,
    transition,
};
pub use model::{
    Address, AddressKind, Attachment, Balancer, BalancerPort, BalancerSpec, HealthCheck, Instance, InstanceId,
    InstanceState, InstanceType, MachineOrder, Owner, Protocol, Route, TAG_CLUSTER, TAG_FLEET, TAG_NAME, TAG_POOL,
    TAG_RESOURCE, Tags, Volume, VolumeId, VolumeOrder,
};
pub use nodes::{NodeMemory, NodeView, TAINT_SHUTDOWN, TAINT_UNINITIALIZED, instance_of, plan_nodes};
pub use quantity::{format_bytes, parse_bytes};
pub use routes::{RouteView, plan_pod_ranges, plan_routes};
pub use services::{FINALIZER_BALANCER, ServiceMemory, ServiceView, plan_services};
pub use volumes::{StorageConfig, VolumeView, csi_driver, default_storage_class, plan_volumes};
