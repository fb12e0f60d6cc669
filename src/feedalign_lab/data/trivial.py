"""Predictors that learn nothing of how inputs and targets go together: what a network has to be better than."""

from feedalign_lab.data.dataset import Dataset


def trivial_errors(dataset: Dataset) -> dict[str, float]:
    """Test errors of what can be told without learning.

    Args:
        dataset: The data set.

    Returns:
        By what is told, in words: for classes "most frequent class" (of the training part), in percent; for values
        "mean" (of the training part), and for forecasts "value last seen" too, as mean squared errors.
    """
    y_train, y_test = dataset.y_train, dataset.y_test
    if dataset.task == "classification":
        is_wrong = y_test != y_train.bincount().argmax()
        return {"most frequent class": 100 * float(is_wrong.double().mean())}
    # Of each output by itself, over examples and steps.
    mean = y_train.flatten(0, -2).mean(0)
    errors = {"mean": float((y_test - mean).square().double().mean())}
    if dataset.task == "forecasting":
        errors["value last seen"] = float((y_test - dataset.x_test).square().double().mean())
    return errors
