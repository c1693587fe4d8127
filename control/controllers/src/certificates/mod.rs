//! Controllers of certificate requests: who gets one without asking a person, who signs, and what is thrown away.

mod approve;
mod clean;
mod rules;
mod sign;

use crate::{framework::Controller, run::ControllersConfig};

/// The controllers of this family.
pub(crate) fn controllers(config: &ControllersConfig) -> Vec<Box<dyn Controller>> {
    let mut all: Vec<Box<dyn Controller>> = vec![Box::new(approve::RequestApproval), Box::new(clean::RequestCleaning)];
    if config.signers.is_some() {
        all.push(Box::new(sign::RequestSigning));
    }
    all
}
