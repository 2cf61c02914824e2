"""A compressed model as a file that is fast to run, what became of each linear in it, and how fast it is."""

from compress_explain.deployment.compiled import CompiledRunner, TorchRunner, compile_package
from compress_explain.deployment.export import Exported, check, export_onnx
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.half import BFloat16, Float16
from compress_explain.deployment.int8 import Int8Dynamic
from compress_explain.deployment.latency import Latency, Rates, measure, measure_rates, text_inputs
from compress_explain.deployment.program import ProgramRunner, export_program
from compress_explain.deployment.runtime import OnnxRunner, Runner, run_examples
from compress_explain.deployment.scheme import Scheme
from compress_explain.deployment.smooth import smoothed
from compress_explain.deployment.static import Int8Static
from compress_explain.deployment.weight_only import WeightOnly

__all__ = [
    "BFloat16",
    "CompiledRunner",
    "Exported",
    "Float16",
    "Int8Dynamic",
    "Int8Static",
    "Latency",
    "LinearFacts",
    "OnnxRunner",
    "ProgramRunner",
    "Rates",
    "Runner",
    "Scheme",
    "TorchRunner",
    "WeightOnly",
    "check",
    "compile_package",
    "export_onnx",
    "export_program",
    "measure",
    "measure_rates",
    "run_examples",
    "smoothed",
    "text_inputs",
]
