//! The example's manifest and the images that are built agree.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

use std::collections::BTreeSet;

use serde_json::Value;
use timonel_images::all_images;

const MANIFEST: &str = include_str!("../../../examples/shop/shop.yaml");

fn documents() -> Vec<Value> {
    MANIFEST.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

fn pod_specs() -> Vec<(String, Value)> {
    documents()
        .into_iter()
        .filter(|document| !document["spec"]["template"].is_null())
        .map(|document| {
            let name = document["metadata"]["name"].as_str().unwrap().to_owned();
            (name, document["spec"]["template"]["spec"].clone())
        })
        .collect()
}

#[test]
fn every_container_uses_an_image_of_ours_and_never_pulls_it() {
    let images: BTreeSet<String> = all_images().into_iter().map(|image| image.reference).collect();
    let pods = pod_specs();
    assert_eq!(pods.len(), 6);
    for (name, spec) in pods {
        for container in spec["containers"].as_array().unwrap() {
            let image = container["image"].as_str().unwrap();
            assert!(images.contains(image), "{name} uses {image}");
            assert_eq!(container["imagePullPolicy"], "IfNotPresent", "{name}");
        }
    }
}

#[test]
fn every_pod_runs_as_the_user_of_its_image() {
    for (name, spec) in pod_specs() {
        let security = &spec["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
        let image = spec["containers"][0]["image"].as_str().unwrap();
        let built = all_images().into_iter().find(|built| built.reference == image).unwrap();
        assert_eq!(built.process.user, user, "{name}");
    }
}

#[test]
fn the_services_that_programs_name_exist() {
    let services: BTreeSet<String> = documents()
        .iter()
        .filter(|document| document["kind"] == "Service")
        .map(|document| document["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    let configuration = documents().into_iter().find(|document| !document["data"]["shop.vcl"].is_null()).unwrap();
    let vcl = configuration["data"]["shop.vcl"].as_str().unwrap();
    let mut named: Vec<String> =
        vcl.split(".host = \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert_eq!(named, ["app1", "app2", "app3"]);
    for (_, spec) in pod_specs() {
        for variable in spec["containers"][0]["env"].as_array().into_iter().flatten() {
            if matches!(variable["name"].as_str(), Some("REDIS_HOST" | "PGHOST")) {
                named.push(variable["value"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(named.len(), 7);
    for name in named {
        assert!(services.contains(&name), "{name} is not among {services:?}");
    }
}

#[test]
fn selectors_match_the_pods_they_mean() {
    let documents = documents();
    let labels: Vec<&Value> = documents.iter().map(|one| &one["spec"]["template"]["metadata"]["labels"]).collect();
    let key = "app.kubernetes.io/name";
    for document in &documents {
        let selector = match document["kind"].as_str().unwrap() {
            "Service" => &document["spec"]["selector"],
            "Deployment" | "StatefulSet" | "PodDisruptionBudget" => &document["spec"]["selector"]["matchLabels"],
            _ => continue,
        };
        let matching = labels.iter().filter(|labels| labels[key] == selector[key]).count();
        assert_eq!(matching, 1, "{} {}", document["kind"], document["metadata"]["name"]);
    }
}
