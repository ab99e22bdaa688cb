"""The engine `aiconfigurator` (NVIDIA): an optional extra, imported only when it is asked."""

from gpuscout.runner.engines.aiconfigurator.engine import AIConfiguratorEngine
from gpuscout.runner.engines.aiconfigurator.support import our_gpu, their_system

__all__ = ["AIConfiguratorEngine", "our_gpu", "their_system"]
