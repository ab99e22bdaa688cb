"""A Kubernetes manifest for a launch: Deployment, Service and, where the server reads a file, a ConfigMap.

GPUs are resources of the vendors' device plugins: https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/
Shared memory, probes and the token are as in https://docs.vllm.ai/en/stable/deployment/k8s/ and
https://docs.sglang.io/advanced_features/server_arguments.html . Kubernetes runs arguments as they are: no shell reads
them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.servers.base import Deployment, Launch

# Gaudi: https://docs.habana.ai/en/latest/Quick_Start_Guides/Kubernetes_Quick_Start.html
RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "habana.ai/gaudi"}
# https://github.com/NVIDIA/k8s-device-plugin/blob/main/docs/gpu-feature-discovery/README.md
_LABELS = {"nvidia": "nvidia.com/gpu.product"}
SECRET = {"name": "hf-token", "key": "token"}
_NAME_LENGTH = 40
_CONFIG_FOLDER = "/etc/gpuscout"
_SHARED_MEMORY = "16Gi"


def manifest(
    launch: Launch,
    deployment: Deployment,
    *,
    replicas: int = 1,
    image: str | None = None,
    node_selector: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return the objects of one deployment. Raises InputError where no image is known for its GPUs."""
    image = image or launch.image
    if image is None:
        raise InputError(f"no image of {launch.server} is known for {deployment.vendor}", hint="name one with --image")
    name = name_of(launch, deployment)
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": launch.server}
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
    ]
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 (of the container)
    if launch.files:
        volumes.append({"name": "config", "configMap": {"name": name}})
        mounts.append({"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True})
    probe = {"httpGet": {"path": launch.health, "port": "http"}}
    container: dict[str, Any] = {
        "name": launch.server,
        "image": image,
        "command": [f"{_CONFIG_FOLDER}/{part}" if part in launch.files else part for part in launch.command],
        "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {**SECRET, "optional": True}}}],
        "ports": [{"name": "http", "containerPort": launch.port}],
        "resources": {"limits": {RESOURCES[deployment.vendor.casefold()]: deployment.num_gpus}},
        # Fetching and loading weights may take an hour.
        "startupProbe": {**probe, "periodSeconds": 10, "failureThreshold": 360},
        "readinessProbe": {**probe, "periodSeconds": 5},
        "volumeMounts": mounts,
    }
    pod: dict[str, Any] = {"containers": [container], "volumes": volumes}
    if node_selector:
        pod["nodeSelector"] = dict(node_selector)
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
    ]
    if launch.files:
        data = {file: yaml.safe_dump(dict(content)) for file, content in launch.files.items()}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
    return objects


def as_yaml(objects: list[dict[str, Any]], deployment: Deployment, notes: tuple[str, ...] = ()) -> str:
    """Return the objects as one file, with comments on what the cluster has to have."""
    label = _LABELS.get(deployment.vendor.casefold(), "LABEL")
    comments = [f"needs nodes with {deployment.num_gpus} x {json.dumps(deployment.gpu)} for each replica"]
    if "nodeSelector" not in objects[0]["spec"]["template"]["spec"]:
        comments.append(f"where the cluster has other GPUs too: --node-selector {label}=… as your nodes are labelled")
    comments.append(f"the secret: kubectl create secret generic {SECRET['name']} --from-literal={SECRET['key']}=…")
    comments += notes
    head = "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
    # Values that appear twice are written twice, not as YAML's anchors and aliases.
    plain = json.loads(json.dumps(objects))
    return head + str(yaml.safe_dump_all(plain, sort_keys=False, explicit_start=True))


def name_of(launch: Launch, deployment: Deployment) -> str:
    """Return a name that Kubernetes takes (RFC 1123 label): "vllm-qwen3-32b"."""
    plain = re.sub(r"[^a-z0-9]+", "-", deployment.model.rpartition("/")[2].casefold())
    return f"{launch.server}-{plain[:_NAME_LENGTH].strip('-') or 'model'}"
