"""Linear maps from the features of one encoder to those of another, fitted on pairs of features of the same views.

These are the linear adapters of Drift-Adapter (arXiv 2509.23471), which let a new encoder use what was made for an old
one. Here φ is the old encoder, whose head is inherited, and ψ the new one. Each returns P (d_φ, d_ψ) and p (d_φ,) with
φ(x) ≈ P ψ(x) + p.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import svd

from .arrays import Array
from .ridge import fit_ridge

RANK = 64
"""Rank of `low_rank_affine`, as in Drift-Adapter."""
RIDGE = 0.01
"""Penalty of `low_rank_affine`, relative to the mean diagonal of the kernel, as in `InheritedProbe`."""


def procrustes(target: Array, source: Array) -> tuple[Array, Array]:
    """The rotation, with one scale, that brings centred target features nearest to the centred source features.

    P = s · U Vᵀ for the singular value decomposition U S Vᵀ of Φᵀ Ψ, with Φ and Ψ centred, and s = tr S / ‖Ψ P₁ᵀ‖²,
    P₁ = U Vᵀ (Schönemann 1966). Directions of ψ that no view shows are mapped to 0.

    Args:
        target: (n, d_ψ) features of ψ.
        source: (n, d_φ) features of φ, of the same views.

    Returns:
        P (d_φ, d_ψ) and p (d_φ,), float64.
    """
    psi_mean, phi_mean = target.mean(axis=0, dtype=np.float64), source.mean(axis=0, dtype=np.float64)
    psi, phi = target - psi_mean, source - phi_mean
    # Φᵀ Ψ = Q_φ (R_φ R_ψᵀ) Q_ψᵀ: the decomposition is of a matrix no larger than the number of views.
    q_phi, r_phi = np.linalg.qr(phi.T)
    q_psi, r_psi = np.linalg.qr(psi.T)
    left, values, right = svd(r_phi @ r_psi.T, full_matrices=False)
    kept = values > 1e-10 * max(values[0], np.finfo(np.float64).tiny)
    rotation = (q_phi @ left[:, kept]) @ (right[kept] @ q_psi.T)
    turned = float(np.sum((psi @ rotation.T) ** 2))
    rotation *= values.sum() / turned if turned > 0 else 0.0
    return rotation, phi_mean - rotation @ psi_mean


def low_rank_affine(target: Array, source: Array, *, rank: int = RANK, ridge: float = RIDGE) -> tuple[Array, Array]:
    """Find an affine map of limited rank from ψ to φ by ridge regression (reduced-rank regression).

    The full map is that of `fit_ridge`. The ``rank`` principal directions in φ of its values on the views are kept.

    Args:
        target: (n, d_ψ) features of ψ.
        source: (n, d_φ) features of φ, of the same views.
        rank: Largest rank of P.
        ridge: Penalty, relative to the mean diagonal of the kernel.

    Returns:
        P (d_φ, d_ψ) and p (d_φ,), float64.
    """
    full, _ = fit_ridge(target[None], source[None], np.ones(len(target)), ridge=ridge)
    psi_mean, phi_mean = target.mean(axis=0, dtype=np.float64), source.mean(axis=0, dtype=np.float64)
    values = (target - psi_mean) @ full.T
    directions = svd(values, full_matrices=False)[2][:rank]
    projector = directions.T @ (directions @ full)
    return projector, phi_mean - projector @ psi_mean
