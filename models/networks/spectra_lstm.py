"""Phase of a diffractogram by a recurrent network that reads it from small angles to large ones.

After sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c (LSTM
of two layers between linear layers with layer normalisation). Theirs takes the batch of spectra for the
sequence: the label of a spectrum there depends on which others lie beside it. Here the sequence are the
windows of one spectrum, and each event's answer is its own.

B batch, N points, W windows, H hidden, L classes.
"""

from torch import Tensor, nn

from models.networks.spectra_head import PhaseNetwork, check_sizes, windows


class SpectraLSTM(PhaseNetwork):
    """[B, 1, N] -> packed [B, L + 1]."""

    def __init__(self, points: int, classes: int, window: int = 64, hidden: int = 64) -> None:
        super().__init__(classes)
        check_sizes("points, classes, window and hidden", [points, classes, window, hidden])
        self.window = window
        self.norm = nn.LayerNorm(points)
        self.embed = nn.Sequential(nn.Linear(window, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.lstm = nn.LSTM(hidden, hidden, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, classes))

    def logits(self, x_B1N: Tensor) -> Tensor:
        states_BWH, _ = self.lstm(self.embed(windows(self.norm(x_B1N), self.window)))
        # The mean over the windows, not the last state: what stood at small angles need not be remembered.
        return self.head(states_BWH.mean(1))  # type: ignore[no-any-return]
