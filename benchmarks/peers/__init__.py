"""The same events through ours and through what else one could take, side by side, on one machine."""
