"""A launch shape as the driver's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench_suite.gpu.driver import bindings

if TYPE_CHECKING:
    from qbench_suite.gpu.architectures import Architecture
    from qbench_suite.gpu.shape import LaunchShape


def launch_config(shape: LaunchShape, architecture: Architecture, stream: int = 0) -> Any:
    """The ``CUlaunchConfig`` of a launch; ``stream``: torch's handle of it.

    A dependent launch is an ordinary one below sm_90, where the driver would refuse it.
    """
    driver = bindings()
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = shape.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = shape.block
    config.sharedMemBytes = shape.shared_bytes
    config.hStream = driver.CUstream(stream)
    attributes = []
    if shape.cluster > 1:
        attributes.append(cluster := _attribute("CLUSTER_DIMENSION"))
        # Field by field: the record itself is a view into the attribute.
        cluster.value.clusterDim.x = shape.cluster
        cluster.value.clusterDim.y = cluster.value.clusterDim.z = 1
    if shape.dependent and architecture.major >= 9:
        attributes.append(dependent := _attribute("PROGRAMMATIC_STREAM_SERIALIZATION"))
        dependent.value.programmaticStreamSerializationAllowed = 1
    if shape.cooperative:
        attributes.append(cooperative := _attribute("COOPERATIVE"))
        cooperative.value.cooperative = 1
    config.attrs = attributes
    config.numAttrs = len(attributes)
    return config


def _attribute(name: str) -> Any:
    driver = bindings()
    attribute = driver.CUlaunchAttribute()
    attribute.id = getattr(driver.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
    return attribute
