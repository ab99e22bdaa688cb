"""The engine `simulator`: discrete-event simulation of a continuous-batching server over the roofline's step times."""
