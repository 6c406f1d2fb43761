"""The model that a TRL trainer is given: a copy of the roles' own, on the same base weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError
from preflab.model.adapters import set_adapter

if TYPE_CHECKING:
    from preflab.method.contract import Role
    from preflab.model.roles import Roles
    from preflab.training.task import Task


def copy_for_trl(task: Task, role: Role, scalar: bool) -> Any:
    """Return a PEFT model of its own on the roles' base weights (shared), with the role as ``default``."""
    from peft import get_peft_model
    from transformers import GenerationConfig

    roles, tokens = task.roles, task.tokenizer
    # All that TRL changes in a model but its weights (forward, config, hooks) is changed in a copy.
    shared = {id(parameter): parameter for parameter in roles.peft.parameters()}
    model = copy.deepcopy(roles.peft, shared).unload()
    # The model's own would fill in what TRL leaves unset: end tokens, a minimum length, a penalty.
    model.generation_config = GenerationConfig(
        bos_token_id=tokens.bos_token_id, eos_token_id=list(task.ends), pad_token_id=tokens.pad_token_id
    )
    config = copy.deepcopy(roles.peft.peft_config[role])
    if scalar:
        model, config.task_type = _classifier(model, roles.device), "SEQ_CLS"
    peft_model = get_peft_model(model, config)
    set_adapter(peft_model, "default", roles.state(role))
    return peft_model


def _classifier(model: Any, device: Any) -> Any:
    """Return the model's backbone under a head with one label, float32 as ours."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(f"{type(model).__name__} has no classifier in transformers, which TRL trains") from error
    score = torch.nn.Linear(config.get_text_config().hidden_size, 1, bias=False, device=device)
    score.register_forward_pre_hook(lambda module, states: (states[0].to(torch.float32),))
    setattr(classifier, classifier.base_model_prefix, model.base_model)
    classifier.score = score
    return classifier


def set_reference(model: Any, roles: Roles) -> None:
    """Make TRL's reference ours: it takes the policy as it starts, or the bare base without ``ref``."""
    if "ref" in model.peft_config:
        if roles.has("reference"):
            set_adapter(model, "ref", roles.state("reference"))
        else:
            model.delete_adapter("ref")
