"""The tour's diagrams are those that the code draws, and the code that they show is all quoted."""

import pytest

import figures_gradients
import figures_network
import minddpm
import tour
from minddpm.models import PAPER, SMALL
from quotations import ROOT

DIAGRAMS = {
    "unet": lambda: figures_network.unet_diagram(SMALL),
    "unet_paper": lambda: figures_network.unet_diagram(PAPER),
    "timestep_features": figures_network.features_diagram,
    "graph": figures_gradients.graph_diagram,
    "convolution_gradient": figures_gradients.convolution_diagram,
}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_current(name):
    """If this fails: run docs/tour/figures_network.py or docs/tour/figures_gradients.py."""
    minddpm.set_backend("numpy")
    assert (ROOT / "docs/tour" / f"{name}.svg").read_text() == DIAGRAMS[name]()


@pytest.mark.parametrize(
    "path",
    ["minddpm/autodiff/graph.py", "minddpm/models/blocks.py", "minddpm/models/unet.py"],
)
def test_every_line_of_the_graph_and_the_network_is_quoted(path):
    code, quoted, _ = tour.coverage()[path]
    assert code - quoted == set()
