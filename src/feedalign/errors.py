"""Typed errors. Each message says what was found, what was expected and what to do about it."""

from __future__ import annotations


class FeedalignError(Exception):
    """Base of every error that feedalign raises on purpose."""


class AttachError(FeedalignError, ValueError):
    """The model or an argument of `attach` does not allow the rule to be attached."""


class NoFeedbackPointError(AttachError):
    """No place was found, or none matched, at which a layer could receive its teaching signal."""


class OutputError(AttachError):
    """The tensor at which the error is taken could not be told."""


class ExampleInputsError(AttachError):
    """The example inputs are missing or the model does not run on them."""


class AlreadyAttachedError(AttachError):
    """A rule is attached to the model, or to a part of it, already."""


class CompiledModelError(AttachError):
    """The model was compiled before the rule was attached, so that the rule would be skipped."""


class WrappedModelError(AttachError):
    """The model is wrapped or sharded for several devices, in a way that the rule cannot follow."""


class UnsuitableModelError(AttachError):
    """The rule cannot work on this model: a fixed point, or an activation that the rule excludes."""


class UncutPathError(AttachError):
    """With `strict=True`: exact backprop would reach layers along a path that no point cuts."""


class FeedbackShapeError(FeedalignError, ValueError):
    """A feedback matrix, or what a projection returned, does not have the shape that is needed."""


class AmbiguousShapeError(FeedbackShapeError):
    """The shapes of the error and of an activation do not tell how one is projected onto the other."""


class PointNotFiredError(FeedalignError, RuntimeError):
    """A feedback point did not fire, or not as often as on the example inputs."""


class OutsideForwardError(FeedalignError, RuntimeError):
    """A part of an attached model ran with gradients outside the forward of the model."""


class UntaughtLayerError(FeedalignError, RuntimeError):
    """A layer that should learn lies on no gradient path to its feedback point."""


class ChangedActivationError(FeedalignError, RuntimeError):
    """The activation of a feedback point was changed in place behind it, or is there twice since the point is."""


class CheckpointingError(FeedalignError, RuntimeError):
    """Activation checkpointing of a kind that the rule cannot follow."""


class ExportError(FeedalignError, RuntimeError):
    """An attached model is exported with gradients, which would put its rule into the program."""


class TargetsError(FeedalignError, ValueError):
    """Targets are missing, of the wrong shape or type, or outside the classes."""


class ErrorFormError(FeedalignError, RuntimeError):
    """The error is not of the form from which the rule can read targets and scale."""


class StreamingError(FeedalignError, RuntimeError):
    """Streaming updates cannot be made here, or were lost before the optimizer saw them."""


class DelayError(FeedalignError, RuntimeError):
    """A delayed error cannot wait for its layers where the model runs."""


class ForwardModeError(FeedalignError, RuntimeError):
    """A part of the model has no forward-mode derivative, or one cannot be taken where the model runs."""


class TangentLostError(FeedalignError, RuntimeError):
    """A directional derivative did not arrive at the output."""


class UntrainedFeedbackError(FeedalignError, RuntimeError):
    """The optimizer trains the model and leaves out the feedback that the rule learns."""


class SequenceError(FeedalignError, ValueError):
    """What a recurrent layer was given is no batch of sequences: no steps, or lengths and masks that do not fit."""


class MonitorError(FeedalignError, RuntimeError):
    """A Monitor saw no whole training step, cannot write what it measured, or is given a file that none wrote."""
