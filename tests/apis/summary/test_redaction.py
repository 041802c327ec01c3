import pytest

from mmkdml.apis.summary.redaction import hide_secrets


@pytest.mark.parametrize(
    'text',
    [
        "dict(type='WandbVisBackend', init_kwargs=dict(api_key='S3CRET', project='x'))",
        '{"WANDB_API_KEY": "S3CRET", "project": 1}',
        'train.py --cfg-options visualizer.token=S3CRET seed=3',
        'train.py --hf-token S3CRET --seed 3',
        'postgresql://user:S3CRET@host/db',
        'password="S3CRET"',
    ],
)
def test_secrets_are_replaced(text):
    assert hide_secrets(text) == text.replace("'S3CRET'", '***').replace('"S3CRET"', '***').replace(
        'S3CRET', '***'
    )


@pytest.mark.parametrize(
    'text', ['patch_tokens = 3', "type='TokenMixer'", 'https://a.b/c', 'lr=0.1', "a='b:c@d'"]
)
def test_other_text_is_unchanged(text):
    assert hide_secrets(text) == text
