"""Training runs side by side."""

from __future__ import annotations


def states(path):
    """Everything that a run carries on: weights, momentum, learning rates."""
    import torch

    content = torch.load(path, weights_only=False)
    scheduled = [{key: value for key, value in one.items() if key != "verbose"} for one in content["param_schedulers"]]
    return content["state_dict"], content["optimizer"]["state"], scheduled


def same(first, second):
    import torch

    weights, others = states(first), states(second)
    assert weights[0].keys() == others[0].keys()
    assert all(torch.equal(weights[0][name], others[0][name]) for name in weights[0])
    for slot, values in weights[1].items():
        assert all(torch.equal(torch.as_tensor(values[key]), torch.as_tensor(others[1][slot][key])) for key in values)
    return weights[2] == others[2]
