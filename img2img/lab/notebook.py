"""A fitted equalizer as a notebook shows it."""

from html import escape

from img2img.lab.fitted import Fitted


def with_batches(page: str, fitted: Fitted | None) -> str:
    """Return HTML followed by the table of batches: their images, and whether they are moved to the target."""
    if fitted is None:
        return page
    rows = []
    for number, (name, images) in enumerate(fitted.n_images.items()):
        unchanged = fitted.generator is None and fitted.correction.is_identity(number)
        fate = "the target" if name == fitted.target else "unchanged" if unchanged else f"moved to {fitted.target}"
        rows.append(f"<tr><td>{escape(name)}</td><td>{images}</td><td>{escape(fate)}</td></tr>")
    head = "<tr><th>batch</th><th>images fitted</th><th>result</th></tr>"
    return f"{page}<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
