"""What differs between the kinds of model: loss, what is fitted after training, columns, scores."""
