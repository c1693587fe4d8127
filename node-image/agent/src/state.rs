//! What a node keeps between starts: its settings, its certificate and key. Written whole or not at all.

use crate::layout::Layout;
use std::{fs, io};
use timonel_fleet::{JoinAnswer, NodeSettings};
use timonel_runtime::replace_file;

/// A joined node.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// The service's answer.
    pub(crate) answer: JoinAnswer,
    /// The node's private key, PEM.
    pub(crate) key: String,
    /// `https://host:port` of the service.
    pub(crate) server: String,
    /// TLS server name of the cluster.
    pub(crate) server_name: String,
    /// The node's own address.
    pub(crate) address: String,
    /// When it joined.
    pub(crate) at: jiff::Timestamp,
}

impl Joined {
    pub(crate) fn settings(&self) -> &NodeSettings {
        &self.answer.node
    }
}

/// What the file holds, the key apart.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    answer: JoinAnswer,
    server: String,
    server_name: String,
    address: String,
    at: jiff::Timestamp,
}

/// The state of an earlier start; `None` when there is none or it is unreadable (then the machine joins again).
pub(crate) fn load(layout: &Layout) -> Option<Joined> {
    let folder = layout.state();
    let saved = fs::read(folder.join("joined.json")).ok()?;
    let key = fs::read_to_string(folder.join("node.key")).ok()?;
    match serde_json::from_slice::<Saved>(&saved) {
        Ok(Saved { answer, server, server_name, address, at }) => {
            Some(Joined { answer, key, server, server_name, address, at })
        }
        Err(error) => {
            tracing::warn!(%error, "saved state of the node is unreadable; joining again");
            None
        }
    }
}

/// Keeps the state. The key is written first: settings without their key would be of no use.
pub(crate) fn save(layout: &Layout, joined: &Joined) -> io::Result<()> {
    let folder = layout.state();
    let saved = Saved {
        answer: joined.answer.clone(),
        server: joined.server.clone(),
        server_name: joined.server_name.clone(),
        address: joined.address.clone(),
        at: joined.at,
    };
    replace_file(&folder.join("node.key"), joined.key.as_bytes())?;
    replace_file(&folder.join("joined.json"), &serde_json::to_vec_pretty(&saved)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_and_damage_means_joining_again() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        fs::create_dir_all(layout.state()).unwrap();
        assert!(load(&layout).is_none());
        let answer = JoinAnswer {
            certificate: "c".into(),
            authority: "a".into(),
            renew_after_seconds: 1,
            node: NodeSettings::default(),
        };
        let joined = Joined {
            answer,
            key: "k".into(),
            server: "https://h:1".into(),
            server_name: "n".into(),
            address: "10.0.0.1".into(),
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        save(&layout, &joined).unwrap();
        assert_eq!(load(&layout).unwrap().key, "k");
        fs::write(layout.state().join("joined.json"), b"{").unwrap();
        assert!(load(&layout).is_none());
    }
}
