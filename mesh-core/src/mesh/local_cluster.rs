//! Follows the cluster to which this process belongs, for zone-aware choice: where its endpoints are says how those who
//! call share out over zones.

use std::sync::Arc;

use crate::balance::{Clusters, LocalCluster};
use crate::bootstrap::Bootstrap;
use crate::connect::Http2Connector;
use crate::error::{Error, ErrorKind};
use crate::names::NameIndexSet;
use crate::resource::cluster::{Cluster, Discovery};
use crate::resource::endpoints::{Endpoints, Locality};
use crate::resource::{CLUSTER, ENDPOINTS};
use crate::snapshot::dependencies::{Missing, value_of};
use crate::xds::Subscriber;

/// The local cluster of the process that the bootstrap describes.
pub(super) fn of(name: &str, bootstrap: Option<&Bootstrap>) -> Result<Arc<LocalCluster>, Error> {
    let wrong = |what: &str, next_step: &'static str| {
        let message = format!("go by zones as part of the cluster `{name}`: {what}");
        Err(Error::new(ErrorKind::Setup, message).with_next_step(next_step))
    };
    let Some(bootstrap) = bootstrap else {
        return wrong("the mesh has no control plane", "set a bootstrap, or leave `local_cluster` out");
    };
    match &bootstrap.node().locality {
        Some(at) => Ok(LocalCluster::new(Locality {
            region: at.region.clone(),
            zone: at.zone.clone(),
            sub_zone: at.sub_zone.clone(),
        })),
        None => wrong("the bootstrap does not say where this process is", "set `node.locality` in the bootstrap"),
    }
}

/// Publishes its endpoints until the mesh ends. What is good stays until there is something else.
pub(super) async fn follow(name: Arc<str>, mut resources: Subscriber, clusters: Clusters<Http2Connector>) {
    let mut known: Option<Arc<Endpoints>> = None;
    let mut complaint = None;
    loop {
        let found = look(&name, &mut resources);
        match found {
            Ok(endpoints) if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &endpoints)) => complaint = None,
            Ok(endpoints) => {
                clusters.local_cluster_changed(&endpoints);
                (known, complaint) = (Some(endpoints), None);
            }
            Err(problem) => {
                if problem.is_some() && problem != complaint {
                    let problem = problem.as_deref().unwrap_or_default();
                    tracing::warn!(cluster = &*name, "where this process' like are is not known: {problem}");
                }
                complaint = problem;
            }
        }
        resources.changed().await;
    }
}

/// What is known of its endpoints; without a problem it may come.
fn look(name: &Arc<str>, resources: &mut Subscriber) -> Result<Arc<Endpoints>, Option<String>> {
    let watch = |resources: &mut Subscriber, endpoints: Option<&Arc<str>>| {
        let endpoints = endpoints.cloned().into_iter().collect::<NameIndexSet<_>>();
        resources.watch(&[(&CLUSTER, &NameIndexSet::from_iter([name.clone()])), (&ENDPOINTS, &endpoints)]);
    };
    let cluster = value_of::<Cluster>(resources.get(&CLUSTER, name), &CLUSTER, name);
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(missing) => {
            watch(resources, None);
            return Err(problem(missing));
        }
    };
    let service = match &cluster.discovery {
        Discovery::Static(endpoints) => return Ok(endpoints.clone()),
        Discovery::Eds { service_name } => service_name.as_ref().unwrap_or(name),
        Discovery::Dns(_) | Discovery::Aggregate(_) => {
            return Err(Some("its endpoints come neither by EDS nor with the cluster itself".to_owned()));
        }
    };
    watch(resources, Some(service));
    value_of(resources.get(&ENDPOINTS, service), &ENDPOINTS, service).map_err(problem)
}

fn problem(missing: Missing) -> Option<String> {
    match missing {
        Missing::Pending(_) => None,
        Missing::Absent(problem) | Missing::Behind(problem) => Some(problem.message.to_string()),
    }
}
