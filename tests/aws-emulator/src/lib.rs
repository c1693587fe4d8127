//! A strict emulator of the parts of AWS that Timonel uses: EC2, Elastic Load Balancing version 2, STS, and the
//! instance metadata service.
//!
//! Owns a model of one account (`Account`: a request and the time in, an answer out) and thin shells that give it
//! sockets and a clock. It is strict where AWS is strict, and can be told to misbehave (`faults`). It never calls out,
//! but for health checks of targets through a [`Prober`]. The admin API is described in `README.md`.

mod access;
mod account;
mod admin;
mod call;
mod config;
mod ec2;
mod elb;
mod emulator;
mod error;
mod events;
mod faults;
mod filters;
mod form;
mod health;
mod http;
mod iam;
mod identity;
mod ids;
mod imds;
mod ledger;
mod probe;
mod region;
mod shelf;
mod sigv4;
mod sts;
mod table;
#[cfg(test)]
mod testing;
mod throttle;
#[cfg(test)]
mod walk;
mod webid;
mod xml;

pub use account::{Account, Answer, Delivery};
pub use config::{Config, IssuerConfig, Quotas, RoleConfig, Timings, UserConfig};
pub use emulator::{Emulator, StartError};
pub use error::AwsError;
pub use events::{Event, Happening};
pub use faults::{Effect, Faults, Rule};
pub use health::{Asks, Finding, Probe, Prober};
pub use iam::PolicyError;
pub use identity::IdentityError;
pub use imds::MetadataAnswer;
pub use ledger::{Entry, Ledger};
pub use probe::NetworkProber;
pub use sigv4::{Credentials, Request, presign, sign};
pub use table::tables;
