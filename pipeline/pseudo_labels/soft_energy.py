"""What energies say beyond the mask: a probability for each pixel, and from it the quality of each mask.

A pixel of energy E belongs to a candidate with probability p = 2^(−E/τ) inside the candidate's circle: 1 where nothing
speaks against it, ½ at the limit τ where the mask ends, so that no further parameter is needed, and a mask is where its
own p exceeds ½, as it is for other networks' soft masks. Beyond the circle p is 0. So it is where another candidate
has less energy: a contested pixel is given to one candidate alone, and the loser's own p, often above ½, would claim
pixels that its mask does not have. Of a pixel that no mask has, the candidate of least energy likewise tells alone.

A candidate that takes its whole circle (density gate) is not judged by its energy, so that its p is at least ½ there: ½
means that nothing is known of the pixel, and weighs nothing in training.

Mask quality m is the mean of p over the mask, from ½ to 1, and 0 for a candidate without pixels. On the cells of
``prob_q8`` p is the mean of the four pixels around the cell's centre. This is this project's own.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.masks.soft_format import SOFT_STRIDE, SoftMask, encode_soft

Floats64 = npt.NDArray[np.float64]


class EnergyBand(NamedTuple):
    """Energies of some rows of an image, for circles 0 to K − 1 and P pairs of a circle and a pixel inside it.

    Args:
        top: First row of the image.
        rank: (K,) int64, the candidate of each circle.
        whole: (K,) bool, circles that are taken whole.
        pixel: (P,) int64, flat pixel of the rows.
        circle: (P,) int64.
        energy: (P,) float64.
        owner: (rows · W,) int64, the circle that owns a pixel, K for none.
        least: (rows · W,) float64, the owner's energy; inf where there is none.
    """

    top: int
    rank: Tensor
    whole: Tensor
    pixel: Tensor
    circle: Tensor
    energy: Tensor
    owner: Tensor
    least: Tensor


class SoftEnergy:
    """Gathers what the bands of an image say of its candidates.

    Args:
        n_candidates: N.
        size_hw: Size of the image.
        tau: Energy at which p is ½.
        keep_prob: Also gather soft masks.
    """

    def __init__(self, n_candidates: int, size_hw: tuple[int, int], *, tau: float, keep_prob: bool) -> None:
        self._size_hw, self._tau, self._keep_prob = size_hw, tau, keep_prob
        self._mass = np.zeros(n_candidates)
        self._cells: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats64]] = []
        if keep_prob:
            self._shares = [_shares_of_cells(side) for side in size_hw]

    def add(self, band: EnergyBand) -> None:
        """Take in the next rows; bands come once each, in any order."""
        count = len(band.rank)
        prob = torch.exp2(band.least / -self._tau)
        if bool(band.whole.any()):
            owner = band.owner.clamp(max=count - 1)
            prob = torch.where(band.whole.index_select(0, owner), prob.clamp(min=0.5), prob)
        mass = torch.bincount(band.owner, prob, minlength=count + 1)  # what nobody owns comes last
        self._mass[band.rank.cpu().numpy()] += mass[:count].cpu().numpy()
        if self._keep_prob:
            self._add_cells(band)

    def _add_cells(self, band: EnergyBand) -> None:
        """Add up p around the cells' centres, over the pixels that no other candidate has or is nearer to."""
        width = self._size_hw[1]
        rows, columns = (share.to(band.pixel.device) for share in self._shares)
        y, x = band.pixel // width + band.top, band.pixel % width
        read = torch.nonzero((rows[y] > 0) & (columns[x] > 0)).flatten()
        pixel, circle, energy = (values.index_select(0, read) for values in (band.pixel, band.circle, band.energy))
        # Of a pixel without an owner the first of those of least energy tells.
        owner = band.owner.index_select(0, pixel)
        free = torch.nonzero(owner == len(band.rank)).flatten()
        least = torch.full_like(band.least, torch.inf).scatter_reduce(0, pixel[free], energy[free], "amin")
        nearest = free[energy[free] == least.index_select(0, pixel[free])]
        first = torch.full_like(band.owner, len(band.rank)).scatter_reduce(0, pixel[nearest], circle[nearest], "amin")
        tells = circle == torch.where(owner < len(band.rank), owner, first.index_select(0, pixel))
        circle, energy, read = circle[tells], energy[tells], read[tells]
        y, x = y.index_select(0, read), x.index_select(0, read)
        prob = torch.exp2(energy / -self._tau)
        prob = torch.where(band.whole.index_select(0, circle), prob.clamp(min=0.5), prob)
        share = rows[y] * columns[x] * prob
        cell = (y // SOFT_STRIDE) * -(-width // SOFT_STRIDE) + x // SOFT_STRIDE
        found = (band.rank.index_select(0, circle), cell, share)
        rank, cell, share = (values.cpu() for values in found)
        self._cells.append((rank.numpy(), cell.numpy(), share.numpy()))

    def mask_quality(self, area_px: npt.NDArray[np.integer]) -> Floats64:
        """Give m of each candidate: (N,), 0 without pixels.

        Args:
            area_px: (N,) pixels of the masks.
        """
        quality: Floats64 = self._mass / np.maximum(area_px, 1)
        return quality

    def soft_masks(self, boxes_xywh: npt.NDArray[np.integer]) -> list[bytes | None]:
        """Give ``prob_q8`` of each candidate, None without pixels.

        Args:
            boxes_xywh: (N, 4) tight boxes of the masks, zeros for none.
        """
        cells_wh = [-(-side // SOFT_STRIDE) for side in self._size_hw[::-1]]
        columns = zip(*self._cells, strict=True) if self._cells else ([np.zeros(0, np.int64)] * 3)
        rank, cell, share = (np.concatenate(parts) if self._cells else parts for parts in columns)
        order = np.argsort(rank, kind="stable")
        cell, share = cell[order], share[order]
        ends = np.searchsorted(rank[order], np.arange(len(boxes_xywh) + 1))
        soft: list[bytes | None] = []
        for k, (x, y, width, height) in enumerate(boxes_xywh.tolist()):
            if not width:
                soft.append(None)
                continue
            first = [max(start // SOFT_STRIDE - 1, 0) for start in (x, y)]
            end = [
                min((start + length - 1) // SOFT_STRIDE + 2, cells)
                for start, length, cells in zip((x, y), (width, height), cells_wh, strict=True)
            ]
            prob = np.zeros((end[1] - first[1], end[0] - first[0]))
            row, column = np.divmod(cell[ends[k] : ends[k + 1]], cells_wh[0])
            row, column = row - first[1], column - first[0]
            inside = (row >= 0) & (row < prob.shape[0]) & (column >= 0) & (column < prob.shape[1])
            np.add.at(prob, (row[inside], column[inside]), share[ends[k] : ends[k + 1]][inside])
            soft.append(encode_soft(SoftMask(prob.astype(np.float32), x0=first[0], y0=first[1])))
        return soft


def _shares_of_cells(side_px: int) -> Tensor:
    """(side_px,) float64: the share of a pixel in its cell's value along an axis; the two about the centre have ½ each.

    Of a cell that the image's edge cuts, the outermost pixel stands for what is missing.
    """
    centers = SOFT_STRIDE * np.arange(-(-side_px // SOFT_STRIDE))[:, None] + (SOFT_STRIDE // 2 - 1, SOFT_STRIDE // 2)
    counts = np.bincount(np.minimum(centers, side_px - 1).ravel(), minlength=side_px)
    return torch.from_numpy(counts / 2.0)
