"""The engine `llm-optimizer` (BentoML): its package or its program, and the parser of what the program prints."""

from gpuscout.runner.engines.llm_optimizer.engine import LlmOptimizerEngine
from gpuscout.runner.engines.llm_optimizer.output import parse_llm_optimizer_output
from gpuscout.runner.engines.llm_optimizer.support import our_gpu, their_gpu

# The name of earlier recommenders.
parse_bentoml_output = parse_llm_optimizer_output

__all__ = ["LlmOptimizerEngine", "our_gpu", "parse_bentoml_output", "parse_llm_optimizer_output", "their_gpu"]
