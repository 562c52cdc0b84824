"""A network that learns by DeepSpeed, ZeRO stages 0 to 3: optimizer state, gradients and parameters in shards.

One DeepSpeed engine per network. In the other network's phase the plain module is called, frozen or without autograd:
called through its engine it would wait for a backward pass that never comes, and ZeRO 3 would compute wrong numbers.

The engine is built at the first pass. Until then module and optimizer are plain ones of torch, so that a checkpoint is
loaded into them as into any other.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor

from ialcms.engine.batchnorm import average_running_statistics, synchronise
from ialcms.engine.deepspeed_norm import ZeroNorm
from ialcms.engine.learner import Learner, Network
from ialcms.engine.nonfinite import poison
from ialcms.engine.ranks import Ranks
from ialcms.engine.traffic import size

_MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedLearner(Learner[Network]):
    """On several ranks, with what `zero_optimization` of the settings says in shards."""

    def __init__(
        self,
        module: Network,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        settings: dict[str, Any],
        *,
        sync_batchnorm: bool = True,
        **options: Any,
    ) -> None:
        """settings: of DeepSpeed, in the form of its JSON file. sync_batchnorm: normalise by the global batch. module,
        optimizer and options: as in `Learner`.
        """
        super().__init__(module, optimizer, **options)
        if sync_batchnorm and ranks.world_size > 1:
            synchronise(module, ranks)
        self._ranks, self._settings, self._sync_batchnorm = ranks, settings, sync_batchnorm
        self._stage: int = settings["zero_optimization"]["stage"]
        settings["gradient_clipping"] = 0.0  # `_clip` and `ZeroNorm` do it
        self._engine: Any = None
        self._zero_norm: ZeroNorm | None = None  # from stage 1 on
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._shapes: dict[str, torch.Size] = {}
        self._whole: Network | None = None  # ZeRO 3's `inference_module`

    def prepare(self) -> None:
        if self._engine is None:
            self._start()

    def __call__(self, *args: Any) -> Any:
        self.prepare()
        return self._engine(*args)

    def backward(self, loss: Tensor, taint: Tensor | float = 0.0) -> None:
        self._engine.backward(poison(loss, taint))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch

    def step(self) -> Tensor:
        self._count_traffic()
        norm = self._clip() if self._zero_norm is None else self._zero_norm.compute()
        if not self._skip_unless_finite(norm) and self._zero_norm is None:
            self.optimizer.zero_grad(set_to_none=True)  # the engine steps all the same
        self._engine.step()
        return norm

    def average_running_statistics(self) -> None:
        if not self._sync_batchnorm and self._ranks.world_size > 1:
            average_running_statistics(self.module, self._ranks)

    def _count_traffic(self) -> None:
        """What DeepSpeed sends in a step. Stages 2 and 3 keep no whole gradients, so they reduce every micro-batch's;
        ZeRO 3 collects at least all parameters once, more often as it sees fit."""
        traffic = self._ranks.traffic
        learned: float = size(p for group in self._groups for p in group if p.requires_grad)
        if self._stage == 3:
            parameters: list[Any] = list(self.module.parameters())
            learned = sum(p.ds_numel * p.element_size() for p in parameters if p.requires_grad)
            traffic.all_gather("parameters", sum(p.ds_tensor.numel() * p.element_size() for p in parameters))
        elif self._stage > 0:
            traffic.all_gather("parameters", size(self._flat_shards()))
        if self._stage == 3 and self._ranks.device.type == "cuda":
            learned /= 2  # scattered sums, half an all-reduce; gloo has no such thing
        traffic.all_reduce("gradients", learned * (self.accumulation if self._stage > 1 else 1))

    def _start(self) -> None:
        """Hand module and optimizer to DeepSpeed, with what the optimizer already knows."""
        moments = dict(self.optimizer.state)
        self.optimizer.state.clear()
        if self._stage == 3:
            self._whole = copy.deepcopy(self.module)
        self._shapes = {name: tensor.shape for name, tensor in self.module.state_dict().items()}
        scalars = [parameter for parameter in self.module.parameters() if parameter.dim() == 0]
        for scalar in scalars:  # DeepSpeed cannot broadcast them
            scalar.data = scalar.data.reshape(1)
        # It would be compiled at the first use, to send gradients through shared memory on one machine of CPUs.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self._engine, *_ = deepspeed.initialize(model=self.module, optimizer=self.optimizer, config=self._settings)
        if self._stage == 0:
            for parameter, values in moments.items():
                shaped = {name: values[name].reshape(parameter.shape) for name in _MOMENTS}
                self.optimizer.state[parameter] = {"step": values["step"], **shaped}
        else:
            self._zero_norm = ZeroNorm(self._engine.optimizer, self._stage, self.clip_norm, ranks=self._ranks)
            if moments:
                self._fill_shards(moments)

    def _fill_shards(self, moments: dict[Any, dict[str, Tensor]]) -> None:
        steps = next(iter(moments.values()))["step"]
        for flat in self._flat_shards():
            zeros = {name: torch.zeros_like(flat) for name in _MOMENTS}
            self.optimizer.state[flat] = {"step": steps.clone(), **zeros}
        for parameter, values in moments.items():
            for name in _MOMENTS:
                start, shard = self._local_part(parameter, name)
                shard.copy_(values[name].flatten().narrow(0, start, len(shard)))

    def _flat_shards(self) -> list[Tensor]:
        """What the optimizer has instead of the parameters: this rank's share of them, end to end."""
        zero = self._engine.optimizer
        shards: list[Tensor] = (
            zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        )
        return shards

    def _local_part(self, parameter: Any, name: str) -> tuple[int, Tensor]:
        """Where this rank's share of a parameter begins, counted in its values, and its moments there.

        DeepSpeed's functions for this do not find the second parameter group, nor shares that are padded.
        """
        if self._stage == 3:
            zero = self._engine.optimizer
            shard, offset, count = zero.grad_position[zero.get_param_id(parameter)]
            start = min(self._ranks.rank * count, parameter.ds_numel)
            count = min(count, parameter.ds_numel - start)
        else:
            shard = self._group_of(parameter)
            start = offset = count = 0
            if parameter._hp_mapping is not None:  # None: no part of it is this rank's
                start = parameter._hp_mapping.lp_fragment_address.start
                offset = parameter._hp_mapping.hp_fragment_address.start
                count = parameter._hp_mapping.hp_fragment_address.numel
        return start, self.optimizer.state[self._flat_shards()[shard]][name].narrow(0, offset, count)

    def _group_of(self, parameter: Any) -> int:
        """Index of the parameter group that has this very tensor."""
        for index, group in enumerate(self._groups):
            if any(member is parameter for member in group):
                return index
        raise AssertionError("every parameter is in a group")

    def replicas(self) -> Iterator[tuple[str, Tensor]]:
        """Without what ZeRO 3 has in shards at the moment."""
        return ((name, tensor) for name, tensor in super().replicas() if tensor.numel())

    def inference_module(self) -> Network:
        """With ZeRO 3 a copy: passes of its module are passes of all ranks together."""
        if self._whole is None:
            return self.module
        with self._gathered():
            self._whole.load_state_dict(self.module.state_dict())
        return self._whole

    def state_dict(self) -> dict[str, Any]:
        if self._engine is None:
            return super().state_dict()
        with self._gathered():
            state = self.module.state_dict()
            module = {name: tensor.detach().clone().reshape(self._shapes[name]) for name, tensor in state.items()}
        return {"module": module, "optimizer": self._optimizer_state(module)}

    def _gathered(self) -> Any:
        """Inside, all parameters are whole on all ranks."""
        return deepspeed.zero.GatheredParameters(list(self.module.parameters()), enabled=self._stage == 3)

    def _optimizer_state(self, module: dict[str, Tensor]) -> dict[str, Any]:
        """As torch's Adam would save it; the moments on rank 0 only."""
        shapes = {id(parameter): module[name].shape for name, parameter in self.module.named_parameters()}
        firsts = itertools.accumulate(map(len, self._groups), initial=0)
        numbered = [dict(enumerate(parameters, first)) for first, parameters in zip(firsts, self._groups)]
        groups = [{**group, "params": list(part)} for group, part in zip(self.optimizer.param_groups, numbered)]
        state: dict[int, dict[str, Tensor]] = {}
        if self.optimizer.state:  # there is none before the first step
            steps: Tensor = next(iter(self.optimizer.state.values()))["step"]
            trained = {number: p for part in numbered for number, p in part.items() if p.requires_grad}
            for number, parameter in trained.items():
                moments = {name: self._whole_moment(parameter, name) for name in _MOMENTS}
                if self._ranks.is_first:
                    shaped = {name: moment.reshape(shapes[id(parameter)]).cpu() for name, moment in moments.items()}
                    state[number] = {"step": steps.detach().clone(), **shaped}
        return {"state": state, "param_groups": groups}

    def _whole_moment(self, parameter: Any, name: str) -> Tensor:
        if self._stage == 0:
            return self.optimizer.state[parameter][name].detach().clone()  # type: ignore[no-any-return]
        start, shard = self._local_part(parameter, name)
        whole = shard.new_zeros(getattr(parameter, "ds_numel", parameter.numel()))
        whole.narrow(0, start, len(shard)).copy_(shard)
        return self._ranks.sum(whole)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert self._engine is None, "load before the first pass"
        super().load_state_dict(state)
