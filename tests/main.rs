//! Behaviour of the mesh through its public API, over real sockets: a file per behaviour.

mod affinity;
mod api;
mod architecture;
mod bootstrap;
mod broken_response;
mod circuit_breaking;
mod clusters;
mod config_update;
mod control_plane;
mod deadline;
mod docs;
mod drain;
mod failover;
mod faults;
mod flips;
mod header_mutation;
mod hedging;
mod outlier_detection;
mod peers;
mod policies;
mod retry;
mod route_actions;
mod routing;
mod streaming;
mod support;
mod targets;
