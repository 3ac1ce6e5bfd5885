import subprocess
import sys


def test_without_detectron2_one_sentence_says_how_to_get_it():
    # None in sys.modules makes an import fail as if the package were not installed.
    script = "import sys; sys.modules['detectron2'] = None; import centernet_d2"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError: centernet_d2 is a plugin for Detectron2, which is not installed" in result.stderr
