//! What is measured.

use timonel_api::{Limits, Scheme, Value, decode_json};

/// A Pod as a controller makes it and a kubelet reports it.
pub(crate) fn pod() -> Value {
    let container = |name: &str| {
        format!(
            r#"{{"name":"{name}","image":"registry.example.com/shop/{name}:1.27.3","command":["/bin/{name}","--port=8080"],
            "ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],
            "env":[{{"name":"POD_NAME","valueFrom":{{"fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.name"}}}}}},{{"name":"DATABASE","value":"postgres://db.shop.svc:5432/shop"}}],
            "resources":{{"limits":{{"cpu":"500m","memory":"256Mi"}},"requests":{{"cpu":"250m","memory":"128Mi"}}}},
            "volumeMounts":[{{"name":"data","mountPath":"/data"}},{{"name":"kube-api-access","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","readOnly":true}}],
            "livenessProbe":{{"httpGet":{{"path":"/healthz","port":"http","scheme":"HTTP"}},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}},
            "terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","securityContext":{{"runAsNonRoot":true,"allowPrivilegeEscalation":false,"capabilities":{{"drop":["ALL"]}}}}}}"#
        )
    };
    let status = |name: &str| {
        format!(
            r#"{{"name":"{name}","state":{{"running":{{"startedAt":"2026-11-01T10:00:03Z"}}}},"lastState":{{}},"ready":true,"restartCount":0,"image":"registry.example.com/shop/{name}:1.27.3","imageID":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","containerID":"containerd://fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210","started":true}}"#
        )
    };
    let condition = |name: &str| {
        format!(
            r#"{{"type":"{name}","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-11-01T10:00:04Z"}}"#
        )
    };
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"shop-7d9c6b5f4-x2x7p","generateName":"shop-7d9c6b5f4-","namespace":"shop","uid":"7c1d2f9e-6b1a-4c54-9d3a-0c6f6f0a1b2c","resourceVersion":"184467","creationTimestamp":"2026-11-01T10:00:00Z","labels":{{"app":"shop","pod-template-hash":"7d9c6b5f4","tier":"web"}},"annotations":{{"checksum/config":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}},
        "ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"shop-7d9c6b5f4","uid":"b1b2b3b4-0000-4000-8000-000000000000","controller":true,"blockOwnerDeletion":true}}]}},
        "spec":{{"volumes":[{{"name":"data","emptyDir":{{}}}},{{"name":"kube-api-access","projected":{{"defaultMode":420,"sources":[{{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}},{{"configMap":{{"name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}}]}}}}],
        "containers":[{},{}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","serviceAccount":"default","nodeName":"node-17","securityContext":{{}},"schedulerName":"default-scheduler","tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"}},
        "status":{{"phase":"Running","conditions":[{},{},{},{}],"hostIP":"10.0.0.17","hostIPs":[{{"ip":"10.0.0.17"}}],"podIP":"10.1.17.5","podIPs":[{{"ip":"10.1.17.5"}}],"startTime":"2026-11-01T10:00:01Z","containerStatuses":[{},{}],"qosClass":"Burstable"}}}}"#,
        container("web"),
        container("cache"),
        condition("Initialized"),
        condition("Ready"),
        condition("ContainersReady"),
        condition("PodScheduled"),
        status("web"),
        status("cache"),
    );
    let scheme = Scheme::kubernetes();
    let resource = scheme.resource("", "v1", "pods").expect("pods are served");
    decode_json(scheme.schema(), resource.body, text.as_bytes(), &Limits::default()).expect("the pod is valid").value
}
