//! `cluster`, `nodepool`, `machine`, `operation`: thin clients of the fleet's API.

use crate::{
    access::AccessArgs,
    cli::{
        ClusterArgs, ClusterVerb, FleetArgs, MachineArgs, MachineVerb, OperationArgs, OperationVerb, PoolArgs, PoolVerb,
    },
    client::{self, Ending},
    config, keeping, output,
};
use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use timonel_fleet::{
    Cluster, ClusterAccess, ClusterNetwork, ClusterPhase, ClusterSpec, ControlPlane, KUBECONFIG_PATH, Machine,
    NodePool, NodePoolSpec, Operation, OperationPhase,
};
use timonel_runtime::Clock;

/// The fleet as these commands use it.
struct Fleet {
    client: Client,
    args: FleetArgs,
}

impl Fleet {
    async fn open(args: FleetArgs) -> anyhow::Result<Self> {
        let client = client::fleet(&config::data(&args.data)).await?;
        Ok(Self { client, args })
    }

    fn api<K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.args.project)
    }

    async fn get<K>(&self, name: &str) -> anyhow::Result<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let found = self.api::<K>().get_opt(name).await?;
        found.ok_or_else(|| Ending::NotFound(format!("{} {name:?}", K::kind(&()).to_lowercase())).into())
    }

    async fn list<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        Ok(self.api::<K>().list(&ListParams::default()).await?.items)
    }

    async fn create<K>(&self, object: &K) -> anyhow::Result<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let how = PostParams { dry_run: self.args.dry_run, ..PostParams::default() };
        self.api::<K>().create(&how, object).await.map_err(plain)
    }

    /// Deletes it; returns when it is gone, unless told not to wait.
    async fn delete<K>(&self, name: &str) -> anyhow::Result<()>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let what = format!("{} {name:?}", K::kind(&()).to_lowercase());
        let how = DeleteParams { dry_run: self.args.dry_run, ..DeleteParams::background() };
        match self.api::<K>().delete(name, &how).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(Ending::NotFound(what).into()),
            Err(error) => return Err(plain(error)),
        }
        if self.args.wait && !self.args.dry_run {
            let gone =
                || async { Ok(self.api::<K>().get_opt(name).await?.map_or(Ok(()), |_| Err("still there".into()))) };
            client::wait(&format!("{what} to go"), self.args.timeout, |_| {}, gone).await?;
        }
        println!("{what} deleted");
        Ok(())
    }
}

/// An error of the API as the API worded it.
fn plain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!(status.message.clone()),
        error => error.into(),
    }
}

/// `timonel cluster ...`
pub(crate) async fn cluster(args: ClusterArgs) -> anyhow::Result<()> {
    let fleet = Fleet::open(args.fleet).await?;
    match args.verb {
        ClusterVerb::Create { name, kubernetes_version, nodes, pod_cidr, service_cidr, control_plane, access } => {
            if kubernetes_version != "1.36" {
                bail!("Kubernetes {kubernetes_version:?} is not served here; 1.36 is");
            }
            let network = ClusterNetwork { pod_cidr, service_cidr };
            let control_plane = ControlPlane {
                without_controllers: control_plane.without_controllers,
                without_scheduler: control_plane.without_scheduler,
                port: control_plane.port.into(),
            };
            let access = put_access(&fleet, &name, &access).await?;
            let cloud = "local".into();
            let spec = ClusterSpec { version: kubernetes_version, cloud, network, control_plane, access };
            let mut created = fleet.create(&Cluster::new(&fleet.args.project, &name, spec)).await?;
            if nodes > 0 {
                let spec = NodePoolSpec { cluster: name.clone(), replicas: nodes, ..NodePoolSpec::default() };
                fleet.create(&NodePool::new(&fleet.args.project, &format!("{name}-default"), spec)).await?;
            }
            if fleet.args.wait && !fleet.args.dry_run {
                created = wait_ready(&fleet, &name).await?;
            }
            print_clusters(&fleet, &[created])
        }
        ClusterVerb::Access { name, access } => {
            let mut cluster = fleet.get::<Cluster>(&name).await?;
            cluster.spec.access = put_access(&fleet, &name, &access).await?;
            let how = PostParams { dry_run: fleet.args.dry_run, ..PostParams::default() };
            let changed = fleet.api::<Cluster>().replace(&name, &how, &cluster).await.map_err(plain)?;
            print_clusters(&fleet, &[changed])
        }
        ClusterVerb::List => print_clusters(&fleet, &fleet.list().await?),
        ClusterVerb::Get { name } => print_clusters(&fleet, &[fleet.get(&name).await?]),
        ClusterVerb::Delete { name } => fleet.delete::<Cluster>(&name).await,
        ClusterVerb::Kubeconfig { name } => kubeconfig(&fleet, &name).await,
        ClusterVerb::Backup { name, file } => keeping::backup(&fleet.args, &name, &file).await,
        ClusterVerb::Restore { name, file, keep_keys } => {
            keeping::restore(&fleet.args, &name, &file, keep_keys).await?;
            if fleet.args.wait {
                print_clusters(&fleet, &[wait_ready(&fleet, &name).await?])?;
            }
            Ok(())
        }
    }
}

/// Writes the Secret with the files that a cluster's access names; what the Cluster says of it.
async fn put_access(fleet: &Fleet, cluster: &str, args: &AccessArgs) -> anyhow::Result<Option<ClusterAccess>> {
    let Some((access, secret)) = args.of_cluster(cluster)? else { return Ok(None) };
    if let Some(secret) = secret {
        let api = fleet.api::<Secret>();
        let name = secret.metadata.name.clone().unwrap_or_default();
        let how = PostParams { dry_run: fleet.args.dry_run, ..PostParams::default() };
        match api.create(&how, &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                api.replace(&name, &how, &secret).await.map_err(plain)?;
            }
            created => drop(created.map_err(plain)?),
        }
    }
    Ok(Some(access))
}

async fn wait_ready(fleet: &Fleet, name: &str) -> anyhow::Result<Cluster> {
    let look = || async {
        let cluster: Cluster = fleet.get(name).await?;
        let status = cluster.status.clone().unwrap_or_default();
        Ok(if status.phase == ClusterPhase::Ready {
            Ok(cluster)
        } else {
            Err(status.conditions.first().map_or_else(|| "accepted".to_owned(), |ready| ready.message.clone()))
        })
    };
    client::wait(&format!("cluster {name:?} to be ready"), fleet.args.timeout, |_| {}, look).await
}

/// The one context of a cluster, as a kubeconfig of its own, fresh from the service. The credential is printed because
/// it was asked for: that is what the file is.
async fn kubeconfig(fleet: &Fleet, name: &str) -> anyhow::Result<()> {
    let path = format!("{KUBECONFIG_PATH}/{}/{name}", fleet.args.project);
    let request = http::Request::get(&path).body(Vec::new()).context("name of project or cluster")?;
    match fleet.client.request_text(request).await {
        Ok(yaml) => print!("{yaml}"),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(Ending::NotFound(format!("cluster {name:?}")).into());
        }
        Err(error) => return Err(plain(error)),
    }
    Ok(())
}

fn print_clusters(fleet: &Fleet, clusters: &[Cluster]) -> anyhow::Result<()> {
    let now = Clock::system().now();
    output::print(fleet.args.output, clusters, &["NAME", "PHASE", "VERSION", "ENDPOINT", "PODS", "AGE"], |cluster| {
        let status = cluster.status.clone().unwrap_or_default();
        vec![
            cluster.metadata.name.clone().unwrap_or_default(),
            format!("{:?}", status.phase),
            status.version,
            status.endpoint,
            status.network.pod_cidr,
            output::age(cluster, now),
        ]
    })
}

/// `timonel nodepool ...`
pub(crate) async fn nodepool(args: PoolArgs) -> anyhow::Result<()> {
    let fleet = Fleet::open(args.fleet).await?;
    match args.verb {
        PoolVerb::Create { name, cluster, replicas, instance_type, zones } => {
            let spec = NodePoolSpec { cluster, replicas, instance_type, zones, ..NodePoolSpec::default() };
            let mut created = fleet.create(&NodePool::new(&fleet.args.project, &name, spec)).await?;
            if fleet.args.wait && !fleet.args.dry_run {
                created = wait_scaled(&fleet, &name).await?;
            }
            print_pools(&fleet, &[created])
        }
        PoolVerb::List => print_pools(&fleet, &fleet.list().await?),
        PoolVerb::Scale { name, replicas } => {
            let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": replicas}}));
            let how = PatchParams { dry_run: fleet.args.dry_run, ..PatchParams::default() };
            fleet.get::<NodePool>(&name).await?;
            let mut pool = fleet.api::<NodePool>().patch(&name, &how, &patch).await.map_err(plain)?;
            if fleet.args.wait && !fleet.args.dry_run {
                pool = wait_scaled(&fleet, &name).await?;
            }
            print_pools(&fleet, &[pool])
        }
        PoolVerb::Delete { name } => fleet.delete::<NodePool>(&name).await,
    }
}

async fn wait_scaled(fleet: &Fleet, name: &str) -> anyhow::Result<NodePool> {
    let look = || async {
        let pool: NodePool = fleet.get(name).await?;
        let status = pool.status.clone().unwrap_or_default();
        let current = status.observed_generation == pool.metadata.generation;
        let ready = status.conditions.first().filter(|_| current);
        Ok(match ready {
            Some(ready) if ready.status == "True" => Ok(pool),
            Some(ready) => Err(ready.message.clone()),
            None => Err("accepted".to_owned()),
        })
    };
    client::wait(&format!("node pool {name:?}"), fleet.args.timeout, |_| {}, look).await
}

fn print_pools(fleet: &Fleet, pools: &[NodePool]) -> anyhow::Result<()> {
    let now = Clock::system().now();
    output::print(fleet.args.output, pools, &["NAME", "CLUSTER", "WANTED", "READY", "TYPE", "AGE"], |pool| {
        vec![
            pool.metadata.name.clone().unwrap_or_default(),
            pool.spec.cluster.clone(),
            pool.spec.replicas.to_string(),
            pool.status.clone().unwrap_or_default().ready_replicas.to_string(),
            pool.spec.instance_type.clone(),
            output::age(pool, now),
        ]
    })
}

/// `timonel machine ...`
pub(crate) async fn machine(args: MachineArgs) -> anyhow::Result<()> {
    let fleet = Fleet::open(args.fleet).await?;
    match args.verb {
        MachineVerb::List => print_machines(&fleet, &fleet.list().await?),
        MachineVerb::Get { name } => print_machines(&fleet, &[fleet.get(&name).await?]),
        MachineVerb::Console { name } => {
            let machine: Machine = fleet.get(&name).await?;
            let id = machine.status.unwrap_or_default().instance_id;
            let path = crate::local::console(&config::data(&fleet.args.data), &id);
            let mut log = std::fs::File::open(&path).with_context(|| format!("console {}", path.display()))?;
            std::io::copy(&mut log, &mut std::io::stdout())?;
            Ok(())
        }
    }
}

fn print_machines(fleet: &Fleet, machines: &[Machine]) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let header = ["NAME", "CLUSTER", "POOL", "PHASE", "INSTANCE", "ADDRESS", "AGE"];
    output::print(fleet.args.output, machines, &header, |machine| {
        let status = machine.status.clone().unwrap_or_default();
        vec![
            machine.metadata.name.clone().unwrap_or_default(),
            machine.spec.cluster.clone(),
            machine.spec.pool.clone(),
            format!("{:?}", status.phase),
            status.instance_id,
            status.addresses.first().map(|address| address.address.clone()).unwrap_or_default(),
            output::age(machine, now),
        ]
    })
}

/// `timonel operation ...`
pub(crate) async fn operation(args: OperationArgs) -> anyhow::Result<()> {
    let fleet = Fleet::open(args.fleet).await?;
    match args.verb {
        OperationVerb::List => print_operations(&fleet, &fleet.list().await?),
        OperationVerb::Get { name } => print_operations(&fleet, &[fleet.get(&name).await?]),
        OperationVerb::Wait { name } => {
            let look = || async {
                let operation: Operation = fleet.get(&name).await?;
                let phase = operation.status.as_ref().map(|status| status.phase).unwrap_or_default();
                let over = matches!(phase, OperationPhase::Succeeded | OperationPhase::Failed);
                Ok(if over { Ok(operation) } else { Err(format!("{phase:?}")) })
            };
            let ended = client::wait(&format!("operation {name:?}"), fleet.args.timeout, |_| {}, look).await?;
            let failed = ended.status.as_ref().is_some_and(|status| status.phase == OperationPhase::Failed);
            print_operations(&fleet, &[ended])?;
            if failed { bail!("operation {name:?} failed") } else { Ok(()) }
        }
    }
}

fn print_operations(fleet: &Fleet, operations: &[Operation]) -> anyhow::Result<()> {
    let now = Clock::system().now();
    output::print(fleet.args.output, operations, &["NAME", "ACTION", "TARGET", "PHASE", "STEP", "AGE"], |operation| {
        let status = operation.status.clone().unwrap_or_default();
        let step = status.steps.iter().rfind(|step| step.started_at.is_some());
        vec![
            operation.metadata.name.clone().unwrap_or_default(),
            operation.spec.action.clone(),
            operation.spec.target.name.clone(),
            format!("{:?}", status.phase),
            step.map(|step| format!("{} {}", step.name, step.message).trim_end().to_owned()).unwrap_or_default(),
            output::age(operation, now),
        ]
    })
}
