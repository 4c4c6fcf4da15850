"""PT2E: codebooks in an exported program, whose codes stay small integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from lloydmax.errors import IntegrationError, PlanMismatchError
from lloydmax.integrations.computed import refuse_computed
from lloydmax.integrations.fake_quantize import FittedWeightFakeQuantize
from lloydmax.integrations.torchao.host import (
    FakeQuantizeBase,
    OfTorchao,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
    create_getattr_from_value,
    forget_models,
    know_kernels,
)
from lloydmax.integrations.torchao.thresholds import ANNOTATION, annotate_activations, weight_spec
from lloydmax.network.given import network
from lloydmax.plan.parameter import PlannedParameter
from lloydmax.plan.plan import Plan, quiet_plan
from lloydmax.plan.plan import plan as make_plan
from lloydmax.recipe.checks import refuse_bits
from lloydmax.recipe.recipe import Recipe
from lloydmax.student.int8.weights import UNIFORM, refusal

_CENTROIDS, _CODES = "_lloydmax_centroids_", "_lloydmax_codes_"


class CodebookFakeQuantize(FittedWeightFakeQuantize, FakeQuantizeBase):
    """The fake quantizer on a weight edge of a prepared program; knows the name of its parameter."""

    def __init__(self, *args: Any, parameter: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parameter = parameter
        self.stored: list[str] = []
        self.known = OfTorchao()

    def convert(self, model: fx.GraphModule, node: fx.Node) -> None:
        """torchao's hook: replace this observer by centroids, codes and the ops that decode them."""
        codebook = self.codebook()

        def decoded(centroids: Tensor, codes: Tensor) -> Tensor:
            return codebook.layout.decode(centroids, codes)

        program = make_fx(decoded)(codebook.centroids, codebook.codes)
        name = _attribute(self.parameter)
        with model.graph.inserting_before(node):
            if not self.stored:
                for prefix, tensor in ((_CENTROIDS, codebook.centroids), (_CODES, codebook.codes)):
                    made = create_getattr_from_value(model, model.graph, f"{prefix}{name}", tensor.clone())
                    self.stored.append(str(made.target))
                    model.graph.erase_node(made)
            values = [model.graph.get_attr(target) for target in self.stored]
            inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
            weight = model.graph.graph_copy(program.graph, dict(zip(inputs, values, strict=True)))
        assert isinstance(weight, fx.Node)
        node.replace_all_uses_with(weight)
        model.graph.erase_node(node)


class CodebookQuantizer(Quantizer):
    """PT2E quantizer: a codebook for every weight that a recipe names.

    With ``activations`` in the recipe, weights of the quantizer ``uniform`` become int8, and the inputs and outputs of
    what is quantized too, all with trained thresholds, where a recipe's own int8 models have them. Without,
    activations stay as they are.

    Alone, or first in a ``ComposableQuantizer([CodebookQuantizer(...), X86InductorQuantizer()...])``, which leaves
    layers that have an annotation alone. Any op may use the weight: weights are found by the names of parameters.

    Args:
        recipe: anything that :meth:`lloydmax.Recipe.load` takes; ``quantize``, ``activations`` and ``trainable`` count.
        model: the float model that was exported.

    Raises:
        RecipeError: the recipe is invalid or does not fit the model. IntegrationError: importances.
    """

    def __init__(self, recipe: Any, model: nn.Module) -> None:
        super().__init__()
        forget_models()
        self.plan: Plan = make_plan(model, Recipe.load(recipe))
        refuse_bits(self.plan.recipe, "PT2E")
        refuse_computed(model, self.plan, "PT2E")
        needy = [p.name for p in self.plan.parameters.values() if p.importance is not None]
        if needy:
            raise IntegrationError(f"{needy[0]}: importances need lloydmax.compress")
        if problems := [
            f"{p.name}: {why}" for p in self.plan.parameters.values() if self._int8(p) and (why := refusal(p))
        ]:
            raise IntegrationError("PT2E cannot do what the recipe says: " + "; ".join(problems))
        if self.plan.recipe.activations is not None:
            know_kernels()

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Mark the weight edges; called by ``prepare_pt2e`` and ``prepare_qat_pt2e``.

        Raises:
            IntegrationError: a planned weight is used nowhere in the program, or was annotated by another quantizer.
        """
        users, settings = _users(model), self.plan.recipe.activations
        layers: list[fx.Node] = []
        for p in self.plan.parameters.values():
            edges = [edge for name in (p.name, *p.tied) for edge in users.get(name, [])]
            if not edges:
                raise IntegrationError(
                    f"{p.name} is not used in the exported program: export the model that the quantizer was made with"
                )
            spec: Any = weight_spec(p) if self._int8(p) else self._codebook_spec(p)
            layers += [user for _, user in edges]
            for weight, user in edges:
                annotation = user.meta.setdefault(ANNOTATION, QuantizationAnnotation(_annotated=True))
                if weight in annotation.input_qspec_map:
                    raise IntegrationError(
                        f"{p.name} was already annotated by another quantizer: put CodebookQuantizer first in "
                        "ComposableQuantizer"
                    )
                inputs = user.args[: user.args.index(weight)] if weight in user.args and settings is None else ()
                for before in inputs:
                    if isinstance(before, fx.Node):
                        annotation.input_qspec_map.setdefault(before, None)
                annotation.input_qspec_map[weight] = spec
                spec = SharedQuantizationSpec((weight, user)) if not isinstance(spec, SharedQuantizationSpec) else spec
        if settings is not None:
            annotate_activations(model, layers, settings)
        return model

    def _int8(self, p: PlannedParameter) -> bool:
        """Whether a weight becomes that of an int8 layer."""
        return p.quantizer == UNIFORM and self.plan.recipe.activations is not None

    def _codebook_spec(self, p: PlannedParameter) -> Any:
        return QuantizationSpec(
            dtype=CodebookFakeQuantize.dtype,
            observer_or_fake_quant_ctr=CodebookFakeQuantize.with_args(
                centroids=p.centroids,
                granularity=p.granularity,
                axis=p.axis,
                trainable=p.name in self.plan.trainable,
                quantizer=p.quantizer,
                options=p.options.model_dump(exclude={"centroids", "granularity"}),
                parameter=p.name,
            ),
        )

    def validate(self, model: fx.GraphModule) -> None:
        """Do nothing: :meth:`annotate` has checked."""


def verify(model: fx.GraphModule, recipe: Any, original: nn.Module) -> None:
    """Prove that a converted program holds the codebooks that a recipe asked for, and no others.

    Args:
        model: from ``convert_pt2e``.
        recipe: given to :class:`CodebookQuantizer`.
        original: the float model.

    Raises:
        PlanMismatchError: names every weight without its codebook. ModelError: one of the models is no network.
    """
    forget_models()
    plan = quiet_plan(original, Recipe.load(recipe))
    buffers = dict(network(model, "the program").named_buffers())
    held = {name for name in buffers if name.startswith(_CODES)}
    problems, integers = [], _int8_shapes(model)
    for p in plan.parameters.values():
        if p.quantizer == UNIFORM and plan.recipe.activations is not None:
            if p.shape in integers:
                integers.remove(p.shape)
            else:
                problems.append(f"{p.name} is not int8")
            continue
        suffix = f"{_attribute(p.name)}0"
        codes, centroids = buffers.get(_CODES + suffix), buffers.get(_CENTROIDS + suffix)
        held.discard(_CODES + suffix)
        if codes is None or centroids is None:
            problems.append(f"{p.name} has no codebook")
        elif tuple(codes.shape) != p.layout.code_shape or centroids.numel() > p.layout.codebooks * p.layout.values:
            found = centroids.numel() // (p.layout.codebooks * p.block)
            problems.append(f"{p.name} has {found} centroids, planned {p.centroids}")
    problems += [f"{name} is a codebook which was not planned" for name in sorted(held)]
    if problems:
        raise PlanMismatchError("the program does not hold what the recipe says: " + "; ".join(problems))


def _int8_shapes(model: fx.GraphModule) -> list[tuple[int, ...]]:
    """Shapes of the weights that the program holds in int8."""
    dequantized = (node.args[0] for node in model.graph.nodes if ".dequantize_per_" in str(node.target))
    targets = {str(value.target) for value in dequantized if isinstance(value, fx.Node) and value.op == "get_attr"}
    return [tuple(fx.graph_module._get_attr(model, target).shape) for target in targets]


def _attribute(parameter: str) -> str:
    return parameter.replace(".", "__")


def _users(model: fx.GraphModule) -> dict[str, list[tuple[fx.Node, fx.Node]]]:
    """Parameter name -> ``(its node, node that uses it)``."""
    found: dict[str, list[tuple[fx.Node, fx.Node]]] = {}
    for node in model.graph.nodes:
        if node.op == "get_attr":
            found.setdefault(str(node.target), []).extend((node, user) for user in node.users)
    return found
