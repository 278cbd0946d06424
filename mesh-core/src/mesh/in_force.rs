//! What is in force for a target, and who set it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::Mesh;
use crate::discover::Target;
use crate::origin::{Held, Origin};
use crate::snapshot::{ClusterEntry, RouteTable};

/// One setting in force; [`Mesh::in_force`] lists them.
///
/// ```text
/// route `prefix /` retry_policy: unavailable; 3 attempts, base_interval 25ms, max_interval 250ms (xds)
/// cluster `greeter` circuit_breakers.max_requests: 1024 (default)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// What it holds for.
    pub scope: SettingScope,
    /// Its name: that of the xDS field, with gRPC's or Envoy's meaning, or that of the builder's method.
    pub name: String,
    /// The value, for people.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// What a [`Setting`] holds for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SettingScope {
    /// All calls of the mesh.
    Mesh,
    /// The calls of a route, by its name or else by what it matches: `prefix /`.
    Route(Arc<str>),
    /// The calls to a cluster.
    Cluster(Arc<str>),
}

impl fmt::Display for SettingScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingScope::Mesh => f.write_str("mesh"),
            SettingScope::Route(name) => write!(f, "route `{name}`"),
            SettingScope::Cluster(name) => write!(f, "cluster `{name}`"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} ({})", self.scope, self.name, self.value, self.origin)
    }
}

impl Mesh {
    /// What is in force at this moment for the calls to a target, and who set each: the settings of the mesh, of the
    /// target's routes in their order, and of the clusters that they name, with the leaves of aggregates. Layers whose
    /// feature is off have none. Without a configuration, or while that cannot be used, it is the mesh's settings alone:
    /// see [`status`](Self::status).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), mesh_core::Error> {
    /// # let impatient = mesh_core::balance::BalanceOptions::new().max_wait(std::time::Duration::from_millis(50));
    /// # let mesh = mesh_core::Mesh::builder().balance(impatient).build().await?;
    /// let target = mesh.target("static:///127.0.0.1:50051")?;
    /// target.ready().await.ok();
    /// for setting in mesh.in_force(&target) {
    ///     println!("{setting}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn in_force(&self, target: &Target) -> Vec<Setting> {
        let mut settings = within(&SettingScope::Mesh, self.of_mesh());
        let Some(snapshot) = target.snapshot() else { return settings };
        let Ok(table) = &snapshot.routing else { return settings };
        for (route, known) in table.virtual_host.routes.iter().enumerate() {
            settings.extend(within(&SettingScope::Route(known.name.clone()), self.of_route(table, route)));
        }
        let mut seen = HashSet::new();
        for entry in &snapshot.all_clusters() {
            let leaves = entry.leaves.iter().flat_map(|leaves| leaves.entries.iter());
            for entry in std::iter::once(entry).chain(leaves) {
                if seen.insert(entry.key.name.clone()) {
                    settings.extend(within(&SettingScope::Cluster(entry.key.name.clone()), self.of_cluster(entry)));
                }
            }
        }
        settings
    }

    fn of_mesh(&self) -> Vec<Held> {
        let profile = self.inner.profile;
        let mut all = vec![Held::new("profile", format!("{:?}", profile.value), profile.origin)];
        all.push(self.inner.clusters.in_force());
        let drain = self.inner.drain_timeout;
        all.push(Held::new("drain_timeout", format!("{:?}", drain.value), drain.origin));
        #[cfg(feature = "mirror")]
        all.push(self.inner.mirror.in_force());
        #[cfg(feature = "retry")]
        all.push(self.inner.retry.in_force());
        all
    }

    fn of_route(&self, table: &RouteTable, route: usize) -> Vec<Held> {
        let mut all = table.in_force(route);
        #[cfg(feature = "filter")]
        all.extend(crate::filter::in_force(table, route));
        #[cfg(feature = "mirror")]
        all.extend(crate::mirror::in_force(table, route));
        #[cfg(feature = "timeout")]
        all.extend(crate::timeout::in_force(table, route, self.inner.profile));
        #[cfg(feature = "retry")]
        if table.forwards(route) {
            all.push(self.inner.retry.in_force_of_route(table.retry(route), table.origin));
        }
        all
    }

    fn of_cluster(&self, entry: &ClusterEntry) -> Vec<Held> {
        let Ok(config) = &entry.config else { return Vec::new() };
        if let Some(leaves) = &entry.leaves {
            let names = leaves.entries.iter().map(|leaf| &*leaf.key.name);
            let leaves = format!("aggregate of {}", names.collect::<Vec<_>>().join(", "));
            return vec![Held::new("cluster_type", leaves, config.cluster.origin)];
        }
        let mut all = self.inner.clusters.in_force_of(config);
        #[cfg(feature = "cluster")]
        all.extend(self.inner.cluster.in_force(config));
        #[cfg(feature = "retry")]
        all.extend(self.inner.retry.in_force_of_cluster(&config.cluster));
        all
    }
}

fn within(scope: &SettingScope, held: Vec<Held>) -> Vec<Setting> {
    let setting = |Held { name, value }: Held| Setting {
        scope: scope.clone(),
        name: name.into_owned(),
        value: value.value,
        origin: value.origin,
    };
    held.into_iter().map(setting).collect()
}
