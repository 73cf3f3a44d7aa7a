"""Which test files would notice an error where, besides those named like the source: all quick."""

OF_ALL = ["tests/test_golden.py", "tests/test_plugin.py"]

OF_ROOM = {
    "rcp/repair": ["tests/test_repair_values.py", "tests/test_covipal.py"],
    "rcp/objectives": [
        "tests/test_loss_values.py", "tests/test_losses.py", "tests/test_covipal_labels.py",
        "tests/test_relevance.py",
    ],
    "rcp/choosing": [
        "tests/test_choosing_values.py", "tests/test_keep_plan.py",
        "tests/test_attached_values.py", "tests/test_tokens.py",
        "tests/test_schedule.py", "tests/test_methods.py", "tests/test_budgets.py",
        "tests/test_attachment.py", "tests/test_selection.py", "tests/test_visual_budget.py",
    ],
    "rcp/plugin": [
        "tests/test_plugin_values.py", "tests/test_budgets.py", "tests/test_lora.py",
        "tests/test_plugin_folder.py", "tests/test_hub.py",
    ],
    "rcp/folder": [
        "tests/test_plugin_values.py", "tests/test_plugin_folder.py", "tests/test_lora.py",
        "tests/test_hub.py", "tests/test_scorer.py",
    ],
    "rcp/attaching": [
        "tests/test_attached_values.py", "tests/test_attachment.py",
        "tests/test_columns.py",
        "tests/test_attention_views.py", "tests/test_golden.py", "tests/test_survivors.py",
        "tests/test_repairing.py", "tests/test_stand_in.py", "tests/test_cache_names.py",
        "tests/test_masking.py", "tests/test_record.py", "tests/test_methods.py",
        "tests/test_before_decoder.py", "tests/test_lora.py", "tests/test_relevance.py",
        "tests/test_parity.py", "tests/test_families_repack.py",
        "tests/test_families_generate.py", "tests/test_families_placement.py",
        "tests/test_mask_gradients.py", "tests/test_visual_budget.py",
    ],
}
"""Room → test files, besides :data:`OF_ALL`."""
