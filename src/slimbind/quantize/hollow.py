"""Forgets the float weights of layers that are quantized: exporters look at a tower's shape, a plan has the values.

A rewritten tower is as large as the one it was made from, and an exporter holds the codes besides. What it traces needs
no values where the codes replace them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slimbind.quantize.plan import Plan
from slimbind.quantize.sites import replace, shallow, sites
from slimbind.towers.layers import Tower


def hollow(tower: Tower, plan: Plan) -> Tower:
    """The tower with zeros for every weight that the plan has codes for; they take up no memory until they are written.

    The given tower keeps its weights; it has to be dropped for them to go.
    """
    found = sites(tower)
    hollowed: dict[str, nn.Module] = {}
    for name, layer in plan.layers.items():
        if layer.weight is None:
            continue
        module = shallow(found[name].module)
        key = "kernels" if found[name].kind == "frames" else "weight"
        parameter = module._parameters[key]
        assert parameter is not None
        # The system gives pages of zeros for nothing (PyTorch's own zeros are written, and so take up memory).
        zeros = torch.from_numpy(np.zeros(tuple(parameter.shape), np.float32))
        module._parameters[key] = nn.Parameter(zeros, requires_grad=False)
        hollowed[name] = module
    return replace(tower, hollowed)
