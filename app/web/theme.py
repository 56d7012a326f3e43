"""The page's look: fonts of the reader's own system, one accent colour, light and dark."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, sizes

__all__ = ["FAVICON", "HEAD", "STYLE", "theme"]

STYLE = Path(__file__).with_name("style.css")
"""Style sheet for what Gradio's theme cannot say."""

FAVICON = Path(__file__).with_name("favicon.png")
"""The sign of the page in browser tabs."""

HEAD = f"""
<meta name="color-scheme" content="light dark">
<meta name="description" content="Generative models on your own machine.">
<script>{Path(__file__).with_name("page.js").read_text(encoding="utf-8")}</script>
"""
"""Added to the head of the page."""

_SANS = (
    "-apple-system",
    "Segoe UI",
    "Inter",
    "Roboto",
    "Noto Sans",
    "Liberation Sans",
    "Helvetica Neue",
    "Arial",
    "system-ui",
    "sans-serif",
)
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

_INK = colors.Color(
    name="ink",
    c50="#f7f8fa", c100="#eef0f4", c200="#dfe3ea", c300="#c6ccd8", c400="#949db0", c500="#667085",
    c600="#4a5468", c700="#363f51", c800="#222938", c900="#161b26", c950="#0e121a",
)  # fmt: skip
_ACCENT = colors.Color(
    name="accent",
    c50="#eef4ff", c100="#dbe6fe", c200="#bfd3fe", c300="#93b4fd", c400="#6090fa", c500="#3b6cf4",
    c600="#2751e0", c700="#2040b8", c800="#203994", c900="#1f3475", c950="#172148",
)  # fmt: skip


def theme() -> gr.themes.Base:
    """The theme; fonts are named, never fetched."""
    base = gr.themes.Base(
        primary_hue=_ACCENT,
        secondary_hue=_ACCENT,
        neutral_hue=_INK,
        text_size=sizes.text_md,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_lg,
        font=_SANS,
        font_mono=_MONO,
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_800",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="0 1px 2px rgba(16, 24, 40, 0.04)",
        block_shadow_dark="none",
        block_label_background_fill="white",  # a label lies over its picture or film
        block_label_background_fill_dark="*neutral_900",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_label_text_weight="600",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="600",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_background_fill_focus="white",
        input_background_fill_focus_dark="*neutral_950",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_border_width="1px",
        input_shadow_focus="0 0 0 3px rgba(59, 108, 244, 0.18)",
        input_shadow_focus_dark="0 0 0 3px rgba(96, 144, 250, 0.25)",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="white",
        button_primary_border_color="transparent",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        button_border_width="1px",
        button_large_text_weight="600",
        button_large_radius="*radius_md",
        button_small_radius="*radius_md",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        link_text_color="*primary_600",
        link_text_color_dark="*primary_300",
        table_even_background_fill="white",
        table_even_background_fill_dark="*neutral_900",
        table_odd_background_fill="*neutral_50",
        table_odd_background_fill_dark="*neutral_950",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_dark="*neutral_900",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*primary_950",
        checkbox_label_border_color_selected="*primary_500",
        checkbox_label_text_color_selected="*primary_700",
        checkbox_label_text_color_selected_dark="*primary_200",
        layout_gap="16px",
        block_padding="14px 16px",
    )
