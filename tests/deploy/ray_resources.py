"""The fields of KubeRay's resources, as its CRDs publish them (ray.io/v1, KubeRay 1.6).

From helm-chart/kuberay-operator/crds/ray.io_raycronjobs.yaml at 034971da and docs/reference/api.md
of github.com/ray-project/kuberay. A name in braces is another resource below, or a model of the
Kubernetes client, such as {V1PodTemplateSpec}; [] behind it makes a list of it.
"""

from typing import Any

Fields = dict[str, Any]

ENUM_AUTH = ("disabled", "token")
ENUM_UPSCALING = ("Default", "Aggressive", "Conservative")
ENUM_SUBMISSION = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
ENUM_VERSION = ("v1", "v2")

RESOURCES: dict[str, Fields] = {
    "RayCluster": {
        "apiVersion": str,
        "kind": str,
        "metadata": "{V1ObjectMeta}",
        "spec": "{RayClusterSpec}",
    },
    "RayJob": {
        "apiVersion": str,
        "kind": str,
        "metadata": "{V1ObjectMeta}",
        "spec": "{RayJobSpec}",
    },
    "RayCronJob": {
        "apiVersion": str,
        "kind": str,
        "metadata": "{V1ObjectMeta}",
        "spec": "{RayCronJobSpec}",
    },
    "RayCronJobSpec": {
        "jobTemplate": "{RayJobSpec}",
        "schedule": str,
        "suspend": bool,
        "timeZone": str,
    },
    "RayJobSpec": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "clusterSelector": "dict",
        "deletionStrategy": "dict",
        "entrypoint": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": str,
        "jobId": str,
        "managedBy": str,
        "metadata": "dict",
        "preRunningDeadlineSeconds": int,
        "rayClusterSpec": "{RayClusterSpec}",
        "runtimeEnvYAML": str,
        "shutdownAfterJobFinishes": bool,
        "submissionMode": ENUM_SUBMISSION,
        "submitterConfig": "{SubmitterConfig}",
        "submitterPodTemplate": "{V1PodTemplateSpec}",
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
    },
    "SubmitterConfig": {"backoffLimit": int},
    "RayClusterSpec": {
        "authOptions": "{AuthOptions}",
        "autoscalerOptions": "{AutoscalerOptions}",
        "enableInTreeAutoscaling": bool,
        "gcsFaultToleranceOptions": "{GcsFaultToleranceOptions}",
        "headGroupSpec": "{HeadGroupSpec}",
        "headServiceAnnotations": "dict",
        "managedBy": str,
        "rayVersion": str,
        "suspend": bool,
        "workerGroupSpecs": "{WorkerGroupSpec}[]",
    },
    "AuthOptions": {"enableK8sTokenAuth": bool, "mode": ENUM_AUTH, "secretName": str},
    "AutoscalerOptions": {
        "args": "list",
        "command": "list",
        "env": "{V1EnvVar}[]",
        "envFrom": "{V1EnvFromSource}[]",
        "idleTimeoutSeconds": int,
        "image": str,
        "imagePullPolicy": str,
        "resources": "{V1ResourceRequirements}",
        "securityContext": "{V1SecurityContext}",
        "upscalingMode": ENUM_UPSCALING,
        "version": ENUM_VERSION,
        "volumeMounts": "{V1VolumeMount}[]",
    },
    "GcsFaultToleranceOptions": {
        "externalStorageNamespace": str,
        "redisAddress": str,
        "redisPassword": "{RedisCredential}",
        "redisUsername": "{RedisCredential}",
    },
    "RedisCredential": {"value": str, "valueFrom": "{V1EnvVarSource}"},
    "HeadGroupSpec": {
        "enableIngress": bool,
        "headService": "{V1Service}",
        "rayStartParams": "dict",
        "serviceType": str,
        "template": "{V1PodTemplateSpec}",
    },
    "WorkerGroupSpec": {
        "groupName": str,
        "idleTimeoutSeconds": int,
        "maxReplicas": int,
        "minReplicas": int,
        "numOfHosts": int,
        "rayStartParams": "dict",
        "replicas": int,
        "scaleStrategy": "dict",
        "suspend": bool,
        "template": "{V1PodTemplateSpec}",
    },
}

REQUIRED: dict[str, tuple[str, ...]] = {
    "RayCronJobSpec": ("jobTemplate", "schedule"),
    "RayClusterSpec": ("headGroupSpec",),
    "HeadGroupSpec": ("template",),
    "WorkerGroupSpec": ("groupName", "template"),
}
