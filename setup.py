from setuptools import find_packages, setup

# All metadata is in pyproject.toml, which cannot express the following.
setup(
    # The folder configs in the root of the repository is installed as the package centernet_d2.configs.
    packages=[*find_packages(include=["centernet_d2", "centernet_d2.*"]), "centernet_d2.configs"],
    package_dir={"centernet_d2.configs": "configs"},
    # `pip install -e` adds the folder of the clone to sys.path. The default of setuptools, an import hook, has lower
    # priority: in the parent folder of a clone named centernet_d2, the clone would shadow the package.
    options={"editable_wheel": {"mode": "compat"}},
)
