# SPDX-License-Identifier: Apache-2.0
# bash completion for stasis, printed by 'stasis completion bash'. What fits the program says itself.
_stasis()
{
	local word=${COMP_WORDS[COMP_CWORD]} line=${COMP_LINE:0:COMP_POINT} prefix candidate files=
	local -a words
	# Not COMP_WORDS: bash splits at '=' and ':' too, and replaces what is behind the last of them.
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	[[ $word == *[=:] ]] && word=
	prefix=${words[-1]%"$word"}
	COMPREPLY=()
	while IFS=$'\t' read -r candidate _; do
		case $candidate in
		:files) files=1 ;;
		:nospace) compopt -o nospace ;;
		*) COMPREPLY+=("${candidate#"$prefix"}") ;;
		esac
	done < <("${words[0]}" completion words -- "${words[@]:1}" 2>/dev/null)
	if [[ $files ]] && ((${#COMPREPLY[@]} == 0)); then
		compopt -o default
	elif [[ $files ]]; then
		while IFS= read -r candidate; do
			COMPREPLY+=("$candidate")
		done < <(compgen -f -- "$word")
	fi
}
complete -F _stasis stasis
