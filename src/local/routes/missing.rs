//! What the real API has and this server has not, from the official description of the API.

use hyper::Method;

/// Method, path and name of each. A part in braces stands for any one part.
const MISSING: [(&str, &str, &str); 40] = [
    ("GET", "v1/apps/{}/certificates", "App_Certificates_list"),
    (
        "POST",
        "v1/apps/{}/certificates/acme",
        "App_Certificates_acme_create",
    ),
    (
        "POST",
        "v1/apps/{}/certificates/custom",
        "App_Certificates_custom_create",
    ),
    ("GET", "v1/apps/{}/certificates/{}", "App_Certificates_show"),
    (
        "DELETE",
        "v1/apps/{}/certificates/{}",
        "App_Certificates_delete",
    ),
    (
        "DELETE",
        "v1/apps/{}/certificates/{}/acme",
        "App_Certificates_acme_delete",
    ),
    (
        "POST",
        "v1/apps/{}/certificates/{}/check",
        "App_Certificates_check",
    ),
    (
        "DELETE",
        "v1/apps/{}/certificates/{}/custom",
        "App_Certificates_custom_delete",
    ),
    ("POST", "v1/apps/{}/deploy_token", "App_create_deploy_token"),
    (
        "POST",
        "v1/apps/{}/ip_assignments",
        "App_IPAssignments_create",
    ),
    (
        "DELETE",
        "v1/apps/{}/ip_assignments/{}",
        "App_IPAssignments_delete",
    ),
    (
        "GET",
        "v1/apps/{}/machines/{}/memory",
        "Machines_get_memory",
    ),
    (
        "PUT",
        "v1/apps/{}/machines/{}/memory",
        "Machines_set_memory_limit",
    ),
    (
        "POST",
        "v1/apps/{}/machines/{}/memory/reclaim",
        "Machines_reclaim_memory",
    ),
    ("GET", "v1/apps/{}/secretkeys/{}", "Secretkey_get"),
    ("POST", "v1/apps/{}/secretkeys/{}", "Secretkey_set"),
    ("DELETE", "v1/apps/{}/secretkeys/{}", "Secretkey_delete"),
    (
        "POST",
        "v1/apps/{}/secretkeys/{}/decrypt",
        "Secretkey_decrypt",
    ),
    (
        "POST",
        "v1/apps/{}/secretkeys/{}/encrypt",
        "Secretkey_encrypt",
    ),
    (
        "POST",
        "v1/apps/{}/secretkeys/{}/generate",
        "Secretkey_generate",
    ),
    ("POST", "v1/apps/{}/secretkeys/{}/sign", "Secretkey_sign"),
    (
        "POST",
        "v1/apps/{}/secretkeys/{}/verify",
        "Secretkey_verify",
    ),
    ("POST", "v1/apps/{}/secrets", "Secrets_update"),
    ("GET", "v1/apps/{}/secrets/{}", "Secret_get"),
    ("POST", "v1/apps/{}/secrets/{}", "Secret_create"),
    ("DELETE", "v1/apps/{}/secrets/{}", "Secret_delete"),
    ("POST", "v1/apps/{}/volumes", "Volumes_create"),
    ("GET", "v1/apps/{}/volumes/{}", "Volumes_get_by_id"),
    ("PUT", "v1/apps/{}/volumes/{}", "Volumes_update"),
    ("DELETE", "v1/apps/{}/volumes/{}", "Volume_delete"),
    ("PUT", "v1/apps/{}/volumes/{}/extend", "Volumes_extend"),
    (
        "GET",
        "v1/apps/{}/volumes/{}/snapshots",
        "Volumes_list_snapshots",
    ),
    (
        "POST",
        "v1/apps/{}/volumes/{}/snapshots",
        "createVolumeSnapshot",
    ),
    ("POST", "v1/tokens/authenticate", "Tokens_authenticate"),
    ("POST", "v1/tokens/authorize", "Tokens_authorize"),
    ("POST", "v1/tokens/kms", "Tokens_request_Kms"),
    ("POST", "v1/tokens/oidc", "Tokens_request_OIDC"),
    (
        "GET",
        "v1/apps/{}/network_policies",
        "Network_policies_list",
    ),
    (
        "POST",
        "v1/apps/{}/network_policies",
        "Network_policies_create",
    ),
    (
        "DELETE",
        "v1/apps/{}/network_policies/{}",
        "Network_policies_delete",
    ),
];

/// The name of a missing call.
pub(super) fn find(method: &Method, parts: &[&str]) -> Option<&'static str> {
    MISSING
        .iter()
        .find(|(verb, path, _)| method == verb && matches(path, parts))
        .map(|(_, _, name)| *name)
}

fn matches(path: &str, parts: &[&str]) -> bool {
    let pattern = path.split('/');
    pattern.clone().count() == parts.len()
        && pattern
            .zip(parts)
            .all(|(wanted, part)| wanted == "{}" || wanted == *part)
}
